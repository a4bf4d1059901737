"""`python serving/compare.py`: two bundles on one test split and on texts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.config import cli
from agent.tasks import BaseTask
from cluster.loop.workspace import write_rows
from serving.compare import CompareConfig, main
from serving.inference.engine import Engine
from serving.inference.engine_choice import open_engine
from serving.inference.writing_engine import WritingEngine
from serving.judging.bundle_comparison import read_texts
from tests.serving.tiny import CLASSIFIER, JUDGE, TAGGER, TEXTS, make_bundle
from tests.tiny_writers import publish_converted, written_records

RECORDS: dict[str, list[dict[str, Any]]] = {
    "token_classification": [{"text": text, "spans": [{"start": 0, "end": 4, "label": "PER"}]} for text in TEXTS],
    "text_classification": [{"text": text, "label": "good"} for text in TEXTS],
    "text_pair_classification": [{"text": text, "text_pair": TEXTS[0], "label": "neutral"} for text in TEXTS],
}


WRITERS: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "sequence_to_sequence": ("bart", {"num_beams": 1, "max_new_tokens": 6}, [{"init_std": 0.5}, {"init_std": 0.6}]),
    "text_generation": ("llama", {}, [{}, {"intermediate_size": 96}]),
}  # two agents that write other texts


def command(*arguments: str) -> int:
    return cli.run(CompareConfig, main, usage="", arguments=list(arguments))


@pytest.mark.parametrize("task", [TAGGER, CLASSIFIER, JUDGE], ids=lambda task: task.kind)
def test_both_are_scored_alike_and_agree_as_far_as_their_answers_do(
    task: BaseTask[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [make_bundle(tmp_path / f"b{seed}", task, seed=seed) for seed in (1, 2)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS[task.kind]))
    inputs = [task.as_input([text] * len(task.input_fields)) for text in TEXTS]
    (tmp_path / "texts").write_text("".join(json.dumps({"text": str(text)}) + "\n" for text in inputs))
    more = [f"data.path={tmp_path / 'data'}", f"texts={tmp_path / 'texts'}", f"output={tmp_path / 'out' / 'c.json'}"]
    assert command(f"bundle={paths[0]}", f"other={paths[1]}", *more) == 0
    found = json.loads((tmp_path / "out" / "c.json").read_text())
    engines = [Engine(Bundle.load(path)) for path in paths]
    for name, engine in zip(("bundle", "other"), engines, strict=True):
        examples = [task.read_record(record, "") for record in RECORDS[task.kind]]
        documents = task.encode(engine.bundle.encoder, examples)
        predictions = [task.predict(*pair) for pair in zip(documents, engine.run(documents), strict=True)]
        assert found[name]["report"]["metrics"] == pytest.approx(task.score(examples, predictions).metrics)
        assert (found[name]["digest"], found[name]["precision"]) == (engine.bundle.digest, engine.variant.precision)
    one, two = (engine.labels(inputs) for engine in engines)
    assert found["agreement"] == sum(a == b for a, b in zip(one, two, strict=True)) / len(TEXTS)
    assert (found["num_examples"], found["num_texts"]) == (len(TEXTS), len(TEXTS))
    assert f"test split, {len(TEXTS)} examples" in capsys.readouterr().out
    assert command(f"bundle={paths[0]}", f"other={paths[0]}", *more[:1]) == 0
    assert "answered alike" not in capsys.readouterr().out


def test_what_cannot_be_compared_is_named(
    classifier_path: Path, tagger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [f"bundle={classifier_path}", f"other={classifier_path}"]
    assert command(f"bundle={classifier_path}", f"other={tagger_path}") == 2
    assert "for text_classification and" in capsys.readouterr().err
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "good"}\n')
    assert command(*both, f"data.path={tmp_path}") == 2
    assert "the test split is missing" in capsys.readouterr().err
    (tmp_path / "texts").write_text('{"txt": 1}\n')
    assert command(*both, f"texts={tmp_path / 'texts'}") == 2
    assert f"{tmp_path / 'texts'}:1: field 'text' is absent" in capsys.readouterr().err


def test_a_line_of_texts_ends_where_json_lines_end(tmp_path: Path) -> None:
    texts = ["one\u2028line", "next\x85line", "two\nlines"]
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])  # as the loop hands them over
    assert read_texts(tmp_path / "texts.jsonl") == texts


@pytest.mark.parametrize("kind", ["sequence_to_sequence", "text_generation"])
def test_agents_that_write_are_scored_and_their_texts_compared(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, task, changes = WRITERS[kind]
    paths = [
        publish_converted(tmp_path / f"b{number}", kind, family, task=task, **change)
        for number, change in enumerate(changes)
    ]
    records = written_records(40)
    write_rows(tmp_path / "data" / "test.jsonl", records)
    texts = [f"{record['text']} met" for record in records[:20]]
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    data, output = f"data.path={tmp_path / 'data'}", tmp_path / "c.json"
    both = [f"bundle={paths[0]}", f"other={paths[1]}", data, f"output={output}", "precision=fp32"]
    assert command(*both, f"texts={tmp_path / 'texts.jsonl'}") == 0
    found, said = json.loads(output.read_text()), capsys.readouterr().out

    engines = [open_engine(Bundle.load(path), precision="fp32", num_cpus=1) for path in paths]
    one, two = (engine.labels(texts) for engine in engines)
    assert found["agreement"] == sum(a == b for a, b in zip(one, two, strict=True)) / 20 < 1
    different = [row for row in zip(texts, one, two, strict=True) if row[1] != row[2]][:5]
    assert [tuple(each.values()) for each in found["differences"]] == different
    for text, *pair in different:
        assert f"    text: {text}\n" in said
        place = min(n for n in range(len(pair[0]) + 1) if not pair[1].startswith(pair[0][:n]) or n == len(pair[0]))
        for path, written in zip(paths, pair, strict=True):
            shown = [line for line in said.splitlines() if line.startswith(f"    {path} (fp32): ")]
            part = written if len(written) <= 160 else written[place : place + 20]
            assert any(part.strip() in line for line in shown)
    for name, engine in zip(("bundle", "other"), engines, strict=True):
        metrics = found[name]["report"]["metrics"]
        assert metrics["inverse_perplexity"] == pytest.approx(inverse_perplexity(engine, records), rel=1e-4)
        if kind == "sequence_to_sequence":
            written = engine.labels([record["text"] for record in records])
            assert (
                metrics["exact"]
                == sum(text == record["target"] for text, record in zip(written, records, strict=True)) / 40
            )
            assert found[name]["report"]["primary"] == "bleu"

    assert command(*both) == 0  # without texts of its own: what was written for the scores
    alone = json.loads(output.read_text())
    assert alone["num_texts"] == (40 if kind == "sequence_to_sequence" else 0)
    assert command(f"bundle={paths[0]}", data) == 0
    assert command(f"bundle={paths[0]}", "precision=fp32", "other_precision=int8", data, f"output={output}") == 0
    variants = json.loads(output.read_text())
    assert (variants["bundle"]["precision"], variants["other"]["precision"]) == ("fp32", "int8")
    assert variants["bundle"]["report"] == found["bundle"]["report"] != variants["other"]["report"]


def inverse_perplexity(engine: WritingEngine, records: list[dict[str, str]]) -> float:
    """By transformers, text by text."""
    import torch
    import transformers

    task, path = engine.task, engine.bundle.path
    documents = task.encode(engine.bundle.encoder, [task.read_record(record, "") for record in records])
    kind = getattr(transformers, task.architecture)
    model, total, count = kind.from_pretrained(path).eval(), 0.0, 0
    for document in documents:
        labels = torch.tensor(document.targets(0)[None])  # type: ignore[attr-defined]
        with torch.no_grad():
            if document.windows[0].decodes:
                right = labels[labels != -100][None]
                loss = model(input_ids=torch.tensor(document.given[None]), labels=right).loss  # type: ignore[attr-defined]
            else:
                ids = torch.tensor(document.windows[0].input_ids[None])
                logits = model(input_ids=ids).logits
                loss = torch.nn.functional.cross_entropy(logits[0], labels[0], ignore_index=-100)
        number = int((labels != -100).sum())
        total, count = total + float(loss) * number, count + number
    return math.exp(-total / count)
