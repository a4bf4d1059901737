"""`python serving/explain.py`: one text in the terminal, a file of records, and what is wrong with either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.config import cli
from serving.explain import ExplainCommandConfig, main, verbatim
from serving.explanation.explanation_models import Explanation
from tests.serving.explanation.planted import topic_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topic_bundle(tmp_path_factory.mktemp("topics") / "bundle")


def run(*arguments: str) -> int:
    return cli.run(ExplainCommandConfig, main, usage="", arguments=verbatim(arguments))


def test_one_text_is_printed_and_written(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "one.json"
    assert run(f"bundle={bundle}", "text=a storm waited", f"output={output}") == 0
    printed = capsys.readouterr().out
    assert "weather: probability 0.9" in printed
    assert "| storm | +0." in printed
    assert "decided otherwise without 'storm' (the smallest set found" in printed
    found = Explanation.model_validate_json(output.read_text())
    assert found.decisions[0].causes[0].word == "storm"


@pytest.mark.parametrize(
    "text", ["Minutes: the storm # waited", "[storm]", "12", '"a" storm', "{storm", "null", "😀 storm"]
)
def test_a_text_is_what_was_typed(bundle: Path, tmp_path: Path, text: str) -> None:
    output = tmp_path / "one.json"
    assert run(f"bundle={bundle}", f"text={text}", f"output={output}", "parameters.interventions=50") == 0
    found = Explanation.model_validate_json(output.read_text())
    for cause in found.decisions[0].causes:
        assert text[cause.start : cause.end] == cause.word


def test_a_file_gets_an_explanation_for_each_record(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    records = [{"text": "the ballot", "id": 1}, {"text": "a storm " * 60, "id": 2}, {"text": "new dividend", "id": 3}]
    source.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    asked = ["parameters.seed=5", "parameters.replacement=remove", "max_tokens=1600"]
    assert run(f"bundle={bundle}", f"input={source}", f"output={target}", *asked) == 0
    assert "2 explanations, 1 refused" in capsys.readouterr().out
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["id"] for line in lines] == [1, 2, 3]
    assert lines[1]["explanation"] is None
    assert "tokens" in lines[1]["error"]
    found = lines[2]["explanation"]
    assert (found["seed"], found["replacement"], found["decisions"][0]["causes"][0]["word"]) == (5, "", "dividend")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["text=a", "input=b"], "give text=... or input=FILE"),
        (["input=b"], "give output=FILE"),
        (["text=a", "parameters.best=1"], "parameters.best"),
        (["text=a", "parameters.labels=[sea]"], "parameters.labels[0] is 'sea'"),
        (["text=a", "parameters.interventions=2"], "parameters.interventions"),
        (["input=/nowhere.jsonl", "output=x"], "/nowhere.jsonl cannot be read"),
    ],
)
def test_what_is_wrong_is_named(
    bundle: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"bundle={bundle}", *arguments) == cli.EXIT_USAGE
    assert told in capsys.readouterr().err


def test_a_record_without_a_text_is_named_and_nothing_is_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "storm"}\n{"words": "storm"}\n')
    assert run(f"bundle={bundle}", f"input={source}", f"output={target}") == cli.EXIT_USAGE
    assert f"{source}:2" in capsys.readouterr().err
    assert not target.exists()
