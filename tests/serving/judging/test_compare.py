"""`python serving/compare.py`: two bundles on one test split and on texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.config import cli
from agent.tasks import BaseTask
from cluster.loop.workspace import write_rows
from serving.compare import CompareConfig, main
from serving.inference.engine import Engine
from serving.judging.bundle_comparison import read_texts
from tests.serving.tiny import CLASSIFIER, JUDGE, TAGGER, TEXTS, make_bundle

RECORDS: dict[str, list[dict[str, Any]]] = {
    "token_classification": [{"text": text, "spans": [{"start": 0, "end": 4, "label": "PER"}]} for text in TEXTS],
    "text_classification": [{"text": text, "label": "good"} for text in TEXTS],
    "text_pair_classification": [{"text": text, "text_pair": TEXTS[0], "label": "neutral"} for text in TEXTS],
}


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
