"""`python serving/label_next.py`: which texts it names, in which files, and what it refuses."""

from __future__ import annotations

import json
import random
import stat
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from agent.bundle import Bundle
from agent.config import cli
from agent.data import DataConfig
from agent.data.splits import open_split
from agent.decisions.decision import Decision, Feedback
from agent.decisions.store import DecisionStore
from agent.tasks import TokenClassification
from serving.active_learning.labelling_round import LabelNextConfig, label_next
from serving.inference.engine import Engine
from tests.serving.explanation.planted import FILLER, TOPICS, planted_bundle, topic_bundle, topic_texts
from tests.serving.tiny import TEXTS

UNSURE = 6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topic_bundle(tmp_path_factory.mktemp("topics") / "bundle")


def command(*arguments: str) -> int:
    return cli.run(LabelNextConfig, label_next, usage="", arguments=list(arguments))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def put(file: Path, texts: list[Any]) -> Path:
    records = [text if isinstance(text, dict) else {"text": text} for text in texts]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def sure_texts(number: int = 60) -> list[str]:
    """Texts with one word that decides."""
    return [text for text, _ in topic_texts(number, seed=1)]


def unsure_texts(number: int = UNSURE, seed: int = 2) -> list[str]:
    """Texts with two words that decide differently."""
    draw, found = random.Random(seed), []
    for _ in range(number):
        words = [*draw.choices(FILLER, k=10), *draw.sample(sorted(TOPICS), 2)]
        draw.shuffle(words)
        found.append(" ".join(words))
    return found


@pytest.mark.parametrize("measure", ["margin", "entropy", "least_confidence"])
def test_the_texts_that_were_made_uncertain_are_named(
    bundle: Path, tmp_path: Path, measure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unsure = unsure_texts()
    texts = sure_texts() + unsure
    random.Random(0).shuffle(texts)
    source, output = put(tmp_path / "in.jsonl", texts), tmp_path / "out" / "next.jsonl"
    asked = [f"bundle={bundle}", f"input={source}", f"number={UNSURE}", "pool=1", f"uncertainty={measure}"]
    assert command(*asked, f"output={output}") == 0
    found = lines(output)
    assert sorted(record["text"] for record in found) == sorted(unsure)
    answers = Engine(Bundle.load(bundle)).labels([record["text"] for record in found])
    assert [record["label"] for record in found] == answers
    assert all(record["uncertainty"] > 0.4 for record in found)
    printed = capsys.readouterr().out
    assert f"{UNSURE} of {len(texts)} texts to label next (jsonl)" in printed
    assert "| chosen | 6 " in printed
    assert f"| the rest | {len(texts) - UNSURE} " in printed
    again = tmp_path / "again.jsonl"
    assert command(*asked, f"output={again}") == 0
    assert again.read_bytes() == output.read_bytes()


def test_of_uncertain_texts_those_are_named_that_differ(bundle: Path, tmp_path: Path) -> None:
    """Twenty variations of one text and three of other kinds."""
    base = "while everyone waited for a letter from river town about new boats the storm and the ballot"
    alike = [f"{base} {letter}" for letter in "abcdefghijklmnopqrst"]
    others = ["penalty dividend quiet gardens", "ballot penalty old stones", "storm dividend office that day"]
    source, output = put(tmp_path / "in.jsonl", alike + others), tmp_path / "next.jsonl"
    assert command(f"bundle={bundle}", f"input={source}", "number=8", f"output={output}", "duplicate_similarity=1") == 0
    named = [record["text"] for record in lines(output)]
    assert set(others) < set(named)


def test_near_duplicates_are_named_once_and_labelled_texts_never(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third, fourth = unsure_texts(4)
    variants = [first, first.upper(), first.replace(" ", "  "), f"{first} .", f"{first}!"]
    source = put(tmp_path / "in.jsonl", [*variants, second, second, third, f"{third} .", fourth, *sure_texts(20)])
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    put(labelled / "train.jsonl", [{"text": third, "label": "sport"}])
    put(labelled / "test.jsonl", [{"text": fourth.title(), "label": "trade"}])
    output = tmp_path / "next.jsonl"
    asked = [f"bundle={bundle}", f"input={source}", f"labelled={labelled}", f"output={output}"]
    assert command(*asked, "number=2", "pool=1") == 0
    named = [record["text"] for record in lines(output)]
    assert len([text for text in named if text in variants]) == 1
    assert second in named
    capsys.readouterr()
    assert command(*asked, "number=10", "overwrite=true") == 0
    named = [record["text"] for record in lines(output)]
    assert len(named) == 10
    assert len([text for text in named if text in variants]) == 1
    assert named.count(second) <= 1
    assert not {third, f"{third} .", fourth} & set(named)
    printed = capsys.readouterr().out
    assert "2 labelled, 3 repeated, 0 refused" in printed
    assert "1 are nearly a labelled one and" in printed
    asked[2] = f"labelled={labelled / 'train.jsonl'}"
    assert command(*asked, "overwrite=true") == 0
    named = [record["text"] for record in lines(output)]
    assert fourth in named
    assert third not in named


@pytest.mark.parametrize("path", ["tagger_path", "classifier_path", "labeller_path", "judge_path", "reader_path"])
def test_every_task_gets_a_file_that_is_training_data_once_corrected(
    path: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = request.getfixturevalue(path)
    task = Bundle.load(bundle).task
    records = [
        dict(zip(task.input_fields, [text[:20], text][-len(task.input_fields) :], strict=True)) for text in TEXTS
    ]
    source, output = put(tmp_path / "in.jsonl", records), tmp_path / "next.jsonl"
    assert command(f"bundle={bundle}", f"input={source}", f"output={output}", "number=3") == 0
    read, _ = open_split(DataConfig(), [output]).read_all()
    examples = [task.read_record(*record) for record in read]
    texts = [task.text_of(example) for example in examples]
    inputs = [task.as_input(list(record.values())) for record in records]
    assert len(set(texts)) == 3
    assert set(texts) < set(inputs)
    for example, answer in zip(examples, Engine(Bundle.load(bundle)).predict(texts), strict=True):
        assert task.labels_of(example) <= set(task.labels)
        assert task.read_record(task.record_of(task.text_of(example), answer), example.where) == example
    assert command(f"bundle={bundle}", f"input={source}", f"labelled={output}", f"output={tmp_path / 'rest'}") == 0
    assert len(lines(tmp_path / "rest")) == 1  # those that were named are labelled now


def test_files_of_the_tools_hold_the_agent_s_answers(tagger_path: Path, labeller_path: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "in.jsonl", [*TEXTS, "🙂 Anna flew from Oslo to Lima."])
    for bundle in (tagger_path, labeller_path):
        task = Bundle.load(bundle).task
        read = {}
        for form in ("jsonl", "doccano", "prodigy", "label_studio"):
            file = tmp_path / f"{form}-{task.kind}.json"
            asked = [f"bundle={bundle}", f"input={source}", f"output={file}", f"format={form}", "number=9"]
            assert command(*asked) == 0
            content = json.loads(file.read_text()) if form == "label_studio" else lines(file)
            if form == "label_studio":
                scores = [(item["data"]["uncertainty"], item["predictions"][0]["score"]) for item in content]
                assert all(one + other == pytest.approx(1, abs=1e-5) for one, other in scores)
                content = [{"data": item["data"], "annotations": item["predictions"]} for item in content]
            if form == "prodigy":  # what the person adds
                assert all(0 <= item["meta"]["uncertainty"] <= 1 for item in content)
                content = [item | {"answer": "accept"} for item in content]
            examples = [
                task.read_record({"labels": []} | record, where)
                for record, where in open_split(DataConfig(), [put(tmp_path / "c.jsonl", content)]).read_all()[0]
            ]
            read[form] = [example.model_copy(update={"where": ""}) for example in examples]
        assert len(read["jsonl"]) == 5
        assert any(task.labels_of(example) for example in read["jsonl"])
        assert read["doccano"] == read["prodigy"] == read["label_studio"] == read["jsonl"]


def test_a_tagger_names_the_text_with_one_doubtful_word(tmp_path: Path) -> None:
    task = TokenClassification(labels=("LOC", "PER"))
    own = {"storm": {"B-PER": 5.0, "B-LOC": 4.9}, "river": {"B-LOC": 9.0}}
    bundle = planted_bundle(tmp_path / "bundle", task, {}, own, bias={"O": 4.0})
    draw = random.Random(0)
    calm = [word for word in FILLER if word != "river"]
    texts = [" ".join([*draw.choices(calm, k=12), "river"]) for _ in range(30)] + ["the storm", "letter about storm"]
    source, output = put(tmp_path / "in.jsonl", texts), tmp_path / "next.jsonl"
    for measure in ("margin", "entropy", "least_confidence"):
        asked = [f"bundle={bundle}", f"input={source}", "number=2", "pool=1", "overwrite=true"]
        assert command(*asked, f"output={output}", f"uncertainty={measure}") == 0
        assert {record["text"] for record in lines(output)} == {"the storm", "letter about storm"}


def test_texts_come_from_lines_and_from_parquet_too(bundle: Path, tmp_path: Path) -> None:
    texts = unsure_texts() + sure_texts(10)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n".join(texts[:8]) + "\n\n")
    (tmp_path / "texts" / "b.txt").write_text("\n".join(texts[8:]))
    parquet.write_table(pyarrow.table({"body": texts, "label": ["x"] * len(texts)}), tmp_path / "t.parquet")
    asked = [f"bundle={bundle}", "number=6", "pool=1"]
    assert command(*asked, f"input={tmp_path / 'texts'}", f"output={tmp_path / 'a'}") == 0
    assert command(*asked, f"input={tmp_path / 't.parquet'}", "text_field=body", f"output={tmp_path / 'b'}") == 0
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert {record["text"] for record in lines(tmp_path / "a")} == set(texts[:6])


def test_texts_of_a_log_are_those_without_feedback(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, unsure = f"sqlite:///{tmp_path / 'd.db'}", unsure_texts()
    store = DecisionStore(url)
    now = time.time()
    decisions = [
        Decision(
            "topics",
            f"r{number}",
            0,
            now - 3_600 * number,
            "d",
            "",
            text,
            '[{"label": "sport", "score": 0.5}]',
            1.0,
            "greedy",
        )
        for number, text in enumerate([*unsure, unsure[1], *sure_texts(10)])
    ]
    store.write([*decisions, decisions[0]._replace(agent="other", id="x")])
    store.give(decisions[0], Feedback(now, "", 1.0, None))
    store.give(decisions[1], Feedback(now, "", None, '{"label": "sport"}'))
    store.close()
    output = tmp_path / "next.jsonl"
    asked = [f"bundle={bundle}", f"log={url}", f"output={output}", "number=4", "pool=1"]
    assert command(*asked) == cli.EXIT_USAGE
    assert "decisions of 2 agents. Allowed: other, topics" in capsys.readouterr().err
    assert command(*asked, "agent=topics") == 0
    assert {record["text"] for record in lines(output)} == set(unsure[2:])
    assert "2 with feedback, 1 labelled" in capsys.readouterr().out  # the corrected text was asked twice
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert command(*asked, "agent=topics", "since_days=0.146", "overwrite=true") == 0  # three hours and a half
    assert {record["text"] for record in lines(output)} == set(unsure[2:4])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give input=FILE or log=STORE"),
        (["input=x", "log=sqlite:///x"], "give input=FILE or log=STORE"),
        (["input={empty}"], "none of 0 texts is left to be labelled"),
        (
            ["input={texts}", "labelled={texts}.labelled"],
            "none of 1 texts is left to be labelled (1 are labelled already)",
        ),
        (["input={texts}.gone"], "does not exist"),
        (["input={texts}", "output={texts}"], "exists. Remedy: give another output, or overwrite=true"),
        (["input={texts}", "output={folder}"], "is a directory"),
        (["input={texts}", "format=xml"], "'jsonl', 'doccano', 'prodigy' or 'label_studio'"),
        (["input={texts}", "uncertainty=dice"], "'margin', 'entropy' or 'least_confidence'"),
        (["input={texts}", "labelled={tags}"], "which is data for token_classification"),
        (["input={texts}", "number=0"], "number=0"),
        (["input={texts}", "text_field=body"], "none of 0 texts"),
        (["log=sqlite:///{folder}/none.db"], "none of 0 texts is left"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_written(
    bundle: Path, tmp_path: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: tmp_path / f"{name}.jsonl" for name in ("empty", "texts", "tags")} | {"folder": tmp_path}
    places["empty"].touch()
    put(places["texts"], ["a storm"])
    put(tmp_path / "texts.jsonl.labelled", [{"text": "A  STORM", "label": "weather"}])
    put(places["tags"], [{"tokens": ["a"], "tags": ["O"]}])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl*")}
    given = [f"output={tmp_path / 'next.jsonl'}", *(argument.format(**places) for argument in arguments)]
    assert command(f"bundle={bundle}", *given) == cli.EXIT_USAGE
    assert told in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl*")} == before


def test_what_a_format_cannot_hold_is_refused_before_anything_is_read(
    judge_path: Path, reader_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for bundle, inputs in ((judge_path, "text with text_pair"), (reader_path, "question with context")):
        asked = [f"bundle={bundle}", "input=/nowhere", f"output={tmp_path / 'x'}"]
        for form in ("doccano", "prodigy", "label_studio"):
            assert command(*asked, f"format={form}") == cli.EXIT_USAGE
            told = capsys.readouterr().err
            assert (
                f"format={form} takes one text, and an input of this agent is {inputs}. Allowed: format=jsonl" in told
            )
    (tmp_path / "a.txt").write_text("one text\n")
    assert command(f"bundle={judge_path}", f"input={tmp_path / 'a.txt'}", f"output={tmp_path / 'x'}") == cli.EXIT_USAGE
    assert "has one text a line, and an input of this agent is text with text_pair" in capsys.readouterr().err


def test_records_without_text_and_refused_ones_are_left_out_and_told(
    reader_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [{"question": "Who?", "context": TEXTS[0]}, {"question": "Where?", "context": TEXTS[1]}]
    bad = [{"question": "Who?"}, {"question": " ".join(TEXTS), "context": TEXTS[0] * 3}]
    source, output = put(tmp_path / "in.jsonl", [good[0], *bad, good[1]]), tmp_path / "next.jsonl"
    assert command(f"bundle={reader_path}", f"input={source}", f"output={output}") == 0
    printed = capsys.readouterr().out
    assert sorted((record["question"], record["context"]) for record in lines(output)) == sorted(
        (record["question"], record["context"]) for record in good
    )
    assert "2 of 4 texts to label next" in printed
    assert "1 without text" in printed
    assert f"without text is {source}:2: field 'context' is missing" in printed
    assert "1 refused by the agent" in printed
    assert "fewer than number=100" in printed
    put(source, [bad[1]])
    assert command(f"bundle={reader_path}", f"input={source}", f"output={output}", "overwrite=true") == cli.EXIT_USAGE
    assert "the agent refuses all 1 texts" in capsys.readouterr().err
    assert len(lines(output)) == 2
