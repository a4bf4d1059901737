"""`python serving/drift.py`: texts of a file or of a log beside what a bundle recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agent.bundle import Bundle
from agent.config import cli
from agent.drift.drift_reference import STATISTICS
from serving.drift import DriftCheckConfig, main
from serving.feedback.decision_log import DecisionLog, FeedbackConfig
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import RequestContext
from tests.serving.shift.recorded import calm_texts, record


@pytest.fixture(scope="module")
def recorded(classifier_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(classifier_path, tmp_path_factory.mktemp("recorded") / "bundle", calm_texts(400, seed=1))


def command(*arguments: str) -> int:
    return cli.run(DriftCheckConfig, main, usage="", arguments=list(arguments))


def test_texts_like_those_of_the_bundle_do_not_drift_and_others_do(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calm, longer = tmp_path / "calm.jsonl", tmp_path / "longer.txt"
    calm.write_text("".join(json.dumps({"text": text}) + "\n" for text in calm_texts(200, seed=2)))
    longer.write_text("".join(f"{text} {text}\n" for text in calm_texts(200, seed=2)))
    assert command(f"bundle={recorded}", f"input={calm}", f"output={tmp_path / 'out' / 'calm.json'}") == 0
    assert "200 texts beside the 400 of the bundle's dev split" in (out := capsys.readouterr().out)
    assert out.endswith("no drift\n")
    assert command(f"bundle={recorded}", f"input={longer}", f"output={tmp_path / 'longer.json'}") == 0
    assert "drift: length" in capsys.readouterr().out
    quiet, loud = (json.loads((tmp_path / name).read_text()) for name in ("out/calm.json", "longer.json"))
    assert set(quiet["statistics"]) == set(STATISTICS)
    assert not any(one["drifts"] for one in quiet["statistics"].values())
    assert loud["statistics"]["length"]["drifts"] is True
    assert quiet["bundle"] == Bundle.load(recorded).digest
    assert quiet["alpha"] == pytest.approx(0.01 / len(STATISTICS))


def test_a_log_of_decisions_is_compared(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'decisions.db'}"
    log = DecisionLog(FeedbackConfig(store=url), Metrics(), "intents")
    predictor = Predictor(Engine(Bundle.load(recorded)), decisions=log)

    async def ask() -> None:
        await predictor.predict(
            calm_texts(20, seed=4), predictor.engine.bundle.task.parameters(), context=RequestContext("r1")
        )
        assert await log.flush()

    asyncio.run(ask())
    predictor.close()
    log.store.close()
    assert command(f"bundle={recorded}", f"log={url}", "since_days=1") == 0
    assert "20 texts beside the 400" in capsys.readouterr().out


def test_what_cannot_be_compared_is_named(
    recorded: Path, classifier_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "anna went"}\n')
    assert command(f"bundle={classifier_path}", f"input={texts}") == 2
    assert "has no distributions to compare with" in capsys.readouterr().err
    assert command(f"bundle={recorded}") == 2
    assert "give either input or log" in capsys.readouterr().err
    texts.write_text('{"other": 1}\n')
    assert command(f"bundle={recorded}", f"input={texts}") == 2
    assert "there is no text to compare" in capsys.readouterr().err
