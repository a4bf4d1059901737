"""`serving/active_learning/self_labels.py`: labels what the agent is sure of, by its own answers, as training reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundle import Bundle
from agent.config import cli
from agent.data import DataConfig
from agent.data.splits import open_split
from serving.active_learning.self_labels import SelfLabelsConfig, label_surely
from serving.inference.engine import Engine
from tests.serving.active_learning.test_label_next import lines, put, sure_texts, unsure_texts
from tests.serving.explanation.planted import topic_bundle
from tests.serving.tiny import TEXTS


def command(*arguments: str) -> int:
    return cli.run(SelfLabelsConfig, label_surely, usage="", arguments=list(arguments))


def test_what_the_agent_is_sure_of_is_labelled_and_the_rest_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = topic_bundle(tmp_path / "bundle")
    sure, unsure = sure_texts(30), unsure_texts(6)
    source, output = put(tmp_path / "in.jsonl", [*unsure, *sure, sure[0], " "]), tmp_path / "out" / "own.jsonl"
    asked = [f"bundle={bundle}", f"input={source}", f"output={output}"]
    assert command(*asked) == 0
    found = lines(output)
    scores = {text: answer[0] for text, answer in zip(sure, Engine(Bundle.load(bundle)).predict(sure), strict=True)}
    kept = [text for text in dict.fromkeys(sure) if scores[text]["score"] >= 0.9]
    assert len(kept) > 0
    assert [record["text"] for record in found] == kept
    assert [record["label"] for record in found] == [scores[text]["label"] for text in kept]
    assert [record["confidence"] for record in found] == pytest.approx(
        [scores[text]["score"] for text in kept], abs=1e-4
    )
    assert (
        f"{len(kept)} of {len({*sure, *unsure})} texts are answered with a confidence of at least 0.9"
        in capsys.readouterr().out
    )
    assert command(*asked) == 2  # the output is there
    assert command(*asked, "overwrite=true", "threshold=0.999999") == 0
    assert lines(output) == []


def test_a_file_without_texts_is_labelled_as_nothing(classifier_path: Path, tmp_path: Path) -> None:
    source, output = put(tmp_path / "in.jsonl", [" "]), tmp_path / "own.jsonl"
    assert command(f"bundle={classifier_path}", f"input={source}", f"output={output}") == 0
    assert lines(output) == []


@pytest.mark.parametrize("path", ["tagger_path", "classifier_path", "labeller_path", "judge_path", "reader_path"])
def test_every_task_gets_training_data_by_its_least_sure_decision(
    path: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = Bundle.load(request.getfixturevalue(path))
    engine, task = Engine(bundle), bundle.task
    inputs = [[text[:20], text][-len(task.input_fields) :] for text in TEXTS]
    source = put(tmp_path / "in.jsonl", [dict(zip(task.input_fields, each, strict=True)) for each in inputs])
    texts = [task.as_input(each) for each in inputs]
    documents = engine.encode(texts)
    sure = {
        text: float(task.choices(document, outputs).max(axis=-1).min())
        for text, document, outputs in zip(texts, documents, engine.run(documents), strict=True)
    }
    threshold = sorted(sure.values())[len(sure) // 2] - 1e-4
    output = tmp_path / "own.jsonl"
    assert command(f"bundle={bundle.path}", f"input={source}", f"output={output}", f"threshold={threshold}") == 0
    read, _ = open_split(DataConfig(), [output]).read_all()
    examples = [task.read_record(*record) for record in read]
    assert {task.text_of(example) for example in examples} == {text for text in sure if sure[text] >= threshold}
    for example, answer in zip(examples, engine.predict([task.text_of(one) for one in examples]), strict=True):
        assert task.read_record(task.record_of(task.text_of(example), answer), example.where) == example
