"""The data, the rival's answers, the arithmetic and the bookkeeping of benchmarks/tasks.py; what it measures takes an hour."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agent.bundle import Bundle
from agent.data import load_splits
from agent.tasks import KINDS as TASKS
from agent.tasks.output_decision import EACH_OUTPUT, PER_TOKEN, PER_WINDOW, TOKENS
from agent.windows.text_pairs import TextPair
from benchmarks.task_comparison.kinds import KINDS
from benchmarks.task_comparison.plain_pipeline import load_pipeline
from benchmarks.task_comparison.serving_rates import decision_of, serving_ratios, with_mask
from benchmarks.task_comparison.slices import DIFFERENT, SAME, Sizes, intent_pairs, joined_texts, write_slices
from benchmarks.task_comparison.task_result import aims, figures, line
from benchmarks.trainer_comparison.base import load_material, named_targets
from benchmarks.trainer_comparison.trainer_process import Curve, collator
from serving.inference.engine import Engine
from tests.serving.tiny import FILLER, JUDGE, LABELLER, READER, RELATER, TEXTS, make_bundle

ROOT = Path(__file__).resolve().parents[2]
SIZES = Sizes(train=24, dev=6, test=6)


def write_lines(file, records):
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def relation(number):
    """A sentence in the form of the shared set: places of both entities beside the text."""
    text = f"Anna{number} flew to Lima{number} ."
    ends = 4 + len(str(number)), len(text) - 2
    label = ("Flight(e1,e2)", "Flight(e2,e1)", "Other")[number % 3]
    return {"id": number, "text": text, "e1": [0, ends[0]], "e2": [ends[0] + 9, ends[1]], "label": label}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Data in the forms of the shared sets, under their names: classes, SQuAD's articles, CoNLL columns."""
    place = tmp_path_factory.mktemp("shared")
    for name in {kind.source for kind in KINDS.values()}:
        (place / name).mkdir()
    texts = [{"text": f"text {number} of class {number % 3}", "label": f"c{number % 3}"} for number in range(90)]
    for name in ("cls_sst2", "cls_banking77"):
        write_lines(place / name / "train.jsonl", texts)
        write_lines(place / name / "test.jsonl", texts[:40])
    for name, count in (("train", 90), ("test", 40)):
        write_lines(place / "rel_semeval2010_task8" / f"{name}.jsonl", [relation(number) for number in range(count)])
    articles = []
    for number in range(40):
        question = {"question": f"Who is {number}?", "answers": [{"text": f"Anna {number}", "answer_start": 0}]}
        articles.append({"paragraphs": [{"context": f"Anna {number} is here.", "qas": [question]}]})
    for name in ("train_sample.json", "dev-v1.1.json"):
        (place / "qa_squad_v1" / name).write_text(json.dumps({"version": "1.1", "data": articles}))
    for name, count in (("train", 90), ("dev", 40)):
        lines = (
            f"Paragraph {number} of {name} tells at some length what was seen in the cells of mice."
            for number in range(count)
        )
        (place / "mlm_craft_biomed" / f"{name}.txt").write_text("A heading\n" + "\n\n".join(lines))
    for name in ("train", "dev", "test"):
        blocks = (f"Anna{number} B-PER\nsleeps O\nin O\nOslo{name} B-LOC\n" for number in range(40))
        (place / "ner_conll2003" / f"{name}.conll").write_text("\n".join(blocks))
    return place


@pytest.fixture(scope="module")
def classes(shared):
    return shared / "cls_banking77"


def test_every_second_pair_has_one_intent_and_no_text_stands_beside_itself(classes):
    class_of = {f"text {number} of class {number % 3}": number % 3 for number in range(90)}
    pairs = intent_pairs(classes)["train"]
    assert [pair["label"] for pair in pairs] == [SAME, DIFFERENT] * 45
    for pair in pairs:
        assert (class_of[pair["text"]] == class_of[pair["text_pair"]]) == (pair["label"] == SAME)
        assert pair["text"] != pair["text_pair"]
    assert intent_pairs(classes)["train"] == pairs


def test_texts_are_joined_in_twos_and_threes_each_once_with_the_labels_of_all(classes):
    joined = joined_texts(classes)["train"]
    parts = [re.findall(r"text \d+ of class \d", record["text"]) for record in joined]
    assert [len(found) for found in parts] == [2, 3] * 18
    assert sorted(itertools.chain(*parts)) == sorted(f"text {number} of class {number % 3}" for number in range(90))
    labels = [sorted({f"c{text[-1]}" for text in found}) for found in parts]
    assert [record["labels"] for record in joined] == labels


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_data_that_its_task_reads_and_trainer_takes(name, shared, tmp_path):
    data = write_slices(KINDS[name].records(shared / KINDS[name].source), SIZES, tmp_path)
    assert data == write_slices(KINDS[name].records(shared / KINDS[name].source), SIZES, tmp_path)
    splits = load_splits(data, TASKS[name]())
    assert [len(found) for found in (splits.train, splits.dev, splits.test)] == [24, 6, 6]
    text_of = splits.task.text_of
    assert not {text_of(example) for example in splits.dev} & {text_of(example) for example in splits.train}
    material = load_material(data, task=TASKS[name]())
    assert len(material.rows) == 24
    assert material.rows[0].keys() >= {"input_ids", "attention_mask"}
    assert ("token_type_ids" in material.rows[0]) == (len(splits.task.input_fields) > 1)


def test_targets_are_named_as_the_heads_of_transformers_take_them():
    assert named_targets(PER_TOKEN, [-100, 1]) == {"labels": [-100, 1]}
    assert named_targets(PER_WINDOW, 2) == {"labels": 2}
    assert repr(named_targets(EACH_OUTPUT, [0, 1])) == "{'labels': [0.0, 1.0]}"
    assert named_targets(TOKENS, [3, 5]) == {"start_positions": 3, "end_positions": 5}


@pytest.mark.parametrize(
    ("answer", "decision"),
    [
        ([{"entity_group": "PER", "start": 0, "end": 4, "score": 0.9}], [("PER", 0, 4)]),
        ([{"label": "good", "score": 0.9}, {"label": "bad", "score": 0.1}], "good"),
        ([[{"label": "good", "score": 0.9}]], "good"),
        ({"answer": "Oslo", "score": 0.5, "start": 1, "end": 5}, "Oslo"),
        ([{"token_str": "oslo", "score": 0.5, "sequence": "in oslo"}], "oslo"),
        ([], None),
        ([[]], None),
    ],
)
def test_answers_of_all_forms_are_compared_by_what_they_say(answer, decision):
    assert decision_of(answer) == decision


@pytest.mark.parametrize(
    ("task", "inputs"),
    [
        (JUDGE, [{"text": one, "text_pair": TEXTS[0]} for one in TEXTS]),
        (LABELLER, TEXTS),
        (RELATER, [f"<e1>anna</e1> saw <e2>oslo</e2> . {one}" for one in TEXTS]),
    ],
)
def test_the_rival_answers_every_kind_alone_and_together_as_the_agent_in_fp32(task, inputs, tmp_path):
    path = make_bundle(tmp_path / "bundle", task, max_tokens=128)
    answer = load_pipeline(str(path), "text-classification", task.kind, threads=1)
    together = [decision_of(found) for found in answer(inputs, 3)]
    texts = [one if isinstance(one, str) else TextPair(*one.values()) for one in inputs]
    all_labels = task.parameters(top_k=len(task.labels))
    own = Engine(Bundle.load(path), precision="fp32").predict(texts, all_labels)
    assert together == [decision_of(answer(one, 1)) for one in inputs] == [found[0]["label"] for found in own]


def test_the_rival_fills_masks_as_the_agent_does(tmp_path):
    path = make_bundle(tmp_path / "bundle", FILLER, max_tokens=128)
    answer = load_pipeline(str(path), "fill-mask", "masked_language_modelling", threads=1)
    inputs = [with_mask(text, "[MASK]") for text in TEXTS]
    assert all(text.split().count("[MASK]") == 1 for text in inputs)
    own = Engine(Bundle.load(path), precision="fp32").predict(inputs)
    together = [decision_of(found) for found in answer(inputs, 3)]
    assert together == [decision_of(answer(one, 1)) for one in inputs] == [decision_of(found) for found in own]


def test_the_rival_hides_whole_words_and_is_scored_on_what_ours_is(shared, tmp_path):
    kind = KINDS["masked_language_modelling"]
    data = write_slices(kind.records(shared / kind.source), SIZES, tmp_path)
    material = load_material(data, task=TASKS["masked_language_modelling"]())
    torch.manual_seed(0)
    batch = collator(material)([dict(row) for row in material.rows])
    hidden = batch["labels"] != -100
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert hidden.any()
    assert (batch["input_ids"][hidden] == material.tokenizer.mask_token_id).all()
    assert not (batch["input_ids"][~hidden] == material.tokenizer.mask_token_id).any()
    curve = Curve(material)
    curve.look(0.0)
    assert set(curve.outcome()["test_metrics"]) >= {"accuracy", "inverse_perplexity"}


def test_the_rival_without_a_pipeline_answers_questions_as_the_agent_does(tmp_path):
    task = READER.model_copy(update={"null_threshold": None})
    path = make_bundle(tmp_path / "bundle", task, max_tokens=128)
    answer = load_pipeline(str(path), "", "question_answering", threads=1)
    asked = [{"question": "Who flew?", "context": text} for text in TEXTS[:3]]
    plain = task.parameters(align_to_words=False)
    own = Engine(Bundle.load(path), precision="fp32").predict([TextPair(*one.values()) for one in asked], plain)
    found = answer(asked, 2)
    assert [item["answer"] for item in found] == [items[0]["answer"] for items in own]
    assert [item["start"] for item in found] == [items[0]["start"] for items in own]
    assert answer(asked[1], 1)["answer"] == found[1]["answer"]


def measured(texts_per_s, score=0.8):
    scores = {"f1": score, "f1.PER": 0.7, "precision": 0.9}
    return {"steps": [[1.0, texts_per_s, 100, 120]] * 5, "test_f1": score, "test_metrics": scores}


def served(single, batch):
    return {"single": {"per_s": single}, "batch": {"per_s": batch}}


@pytest.fixture
def entry():
    return {
        "batch_texts": 8,
        "train": {
            "0": {"ours": measured(20), "trainer": measured(10, 0.7)},
            "1": {"ours": measured(30), "trainer": measured(20, 0.5)},
            "2": {"ours": measured(99)},
        },
        "compressed": {"trained": 0.8, "compressed": 0.796},
        "serve": {"0": {"ours": served(800, 110), "pipeline": served(50, 10), "bare": {"1": 60.0, "8": 100.0}}},
    }


def test_ratios_are_taken_round_by_round_and_half_a_round_does_not_count(entry):
    found = figures(entry)
    assert found["train"]["ratio"] == {"median": 1.75, "low": 1.5, "high": 2.0}
    assert found["train"]["ours"]["median"] == 25
    assert found["score"]["difference"] == pytest.approx(0.2)
    assert found["score"]["differences"]["low"] == pytest.approx(0.1)
    assert found["score"]["metrics"]["trainer"] == {"f1": pytest.approx(0.6), "precision": 0.9}
    assert found["kept"] == pytest.approx(0.995)
    assert figures({"batch_texts": 8}) == {}


def test_serving_is_compared_alike_and_with_the_fastest_way_of_the_rival(entry):
    found = serving_ratios(entry["serve"]["0"], 8)
    assert found["ratio_single"] == 16
    assert found["ratio_batch"] == 11
    assert found["ratio"] == 880 / 100


def test_a_task_has_four_aims_and_a_row(entry):
    entry["figures"] = figures(entry)
    assert [aim.met for aim in aims({"x": entry})] == [True, True, True, True]
    assert [aim.met for aim in aims({"x": {}})] == [None] * 4
    assert "25.0 / 15.0 (1.75, 1.50-2.00)" in line("x", entry["figures"])
    assert "99.5%" in line("x", entry["figures"])
    assert line("x", {}).split() == ["x", "-", "-", "-", "-"]


def test_what_the_result_holds_is_not_measured_again(shared, entry, tmp_path):
    """Each of the parts would take a minute at least."""
    result = tmp_path / "tasks.json"
    known = {part: entry[part] for part in ("train", "serve")}
    result.write_text(json.dumps({"tasks": {"text_classification": known}}))
    command = [
        sys.executable, ROOT / "benchmarks/tasks.py", f"data={shared}", f"result={result}", f"workdir={tmp_path}",
        "tasks=[text_classification]", "parts=[train,serve]", "rounds=1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "(1.75, 1.50-2.00)" in done.stdout
    assert "score kept by int8: not measured" in done.stdout
    after = json.loads(result.read_text())
    assert after["tasks"]["text_classification"]["train"] == entry["train"]
    refused = subprocess.run([*command[:-3], "tasks=[poetry]"], capture_output=True, text=True, check=False)
    assert refused.returncode
    assert "poetry" in refused.stderr + refused.stdout
