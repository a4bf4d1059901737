"""The buffer between predictions and the store: bounded, counted, never in the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.config.base import load
from agent.decisions.decision import Feedback
from agent.decisions.store import DecisionStore
from agent.errors import ConfigError
from serving.feedback.decision_log import Answered, DecisionLog, FeedbackConfig
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.ray_serve.app_config import AppConfig
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import RequestContext
from tests.serving.tiny import TEXTS

DAY_S = 86_400


def answered(request_id: str, *texts: str, time: float = 0) -> Answered:
    answers = [[{"label": "good", "score": 0.5}] for _ in texts]
    return Answered(time, request_id, "anna", 0, "d" * 64, texts, answers, None)


def counted(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("bert_agent_decisions_total{")]
    return {line.split('outcome="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def held(metrics: Metrics) -> float:
    (line,) = [
        line
        for line in metrics.render().decode().splitlines()
        if line.startswith("bert_agent_decisions_pending_bytes{")
    ]
    return float(line.rpartition(" ")[2])


def test_answers_of_the_predictor_are_decisions_of_the_log(tagger_path: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'decisions.db'}"
    metrics = Metrics()
    log = DecisionLog(FeedbackConfig(store=url), metrics, "ner")
    engine = Engine(Bundle.load(tagger_path))
    predictor = Predictor(engine, metrics=metrics, decisions=log)
    before = time.time()

    async def ask() -> list[Any]:
        context = RequestContext("r1")
        context.key_id = "anna"
        answers = await predictor.predict(TEXTS[:2], engine.bundle.task.parameters(), context=context)
        assert log.store.find("ner", "r1", 0) is None  # nobody waits for the store
        assert await log.flush()
        return answers

    answers = asyncio.run(ask())
    predictor.close()
    logged = [one.decision for one in log.store.read()]
    assert [json.loads(one.answer) for one in logged] == answers
    assert [(one.agent, one.id, one.position, one.key_id, one.text) for one in logged] == [
        ("ner", "r1", place, "anna", text) for place, text in enumerate(TEXTS[:2])
    ]
    assert all((one.bundle, one.propensity, one.chosen) == (engine.bundle.digest, 1.0, "greedy") for one in logged)
    assert all(before <= one.time <= time.time() for one in logged)
    assert counted(metrics) == {"written": 2, "repeated": 0, "lost": 0, "delayed": 0}
    log.store.close()


def test_memory_is_bounded_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    metrics, config = Metrics(), FeedbackConfig(store=f"sqlite:///{tmp_path / 'd.db'}", max_pending_mib=0.01)
    log = DecisionLog(config, metrics, "a")
    for number in range(100):
        log.add(answered(f"r{number}", "x" * 1_000))
    kept = 100 - int(counted(metrics)["lost"])
    assert 1 < kept < 10
    assert 0 < held(metrics) <= 0.01 * 2**20
    assert asyncio.run(log.flush())
    assert held(metrics) == 0
    log.add(answered("later", "y"))
    assert asyncio.run(log.flush())
    assert counted(metrics) == {"written": kept + 1, "repeated": 0, "lost": 100 - kept, "delayed": 0}
    log.store.close()


def test_a_store_that_is_away_gets_everything_once_when_it_is_back(tmp_path: Path) -> None:
    place = tmp_path / "later"
    metrics = Metrics()
    log = DecisionLog(FeedbackConfig(store=f"sqlite:///{place}/d.db"), metrics, "a")
    log.add(answered("one", "x", "y"))
    assert not asyncio.run(log.flush())
    log.add(answered("two", "z"))
    assert not asyncio.run(log.flush())
    assert held(metrics) > 0
    place.mkdir()
    assert asyncio.run(log.flush())
    assert [(one.decision.id, one.decision.position) for one in log.store.read()] == [
        ("one", 0),
        ("one", 1),
        ("two", 0),
    ]
    assert counted(metrics) == {"written": 3, "repeated": 0, "lost": 0, "delayed": 2}
    assert held(metrics) == 0
    log.store.close()


def test_while_the_store_is_away_the_bound_holds(tmp_path: Path) -> None:
    metrics, config = Metrics(), FeedbackConfig(store=f"sqlite:///{tmp_path}/absent/d.db", max_pending_mib=0.01)
    log = DecisionLog(config, metrics, "a")
    for number in range(50):
        log.add(answered(f"r{number}", "x" * 1_000))
        if number % 10 == 0:
            assert not asyncio.run(log.flush())
    assert held(metrics) <= 0.01 * 2**20
    assert counted(metrics)["lost"] > 40
    log.store.close()


async def _keep(log: DecisionLog, until: Callable[[], bool]) -> None:
    task = asyncio.create_task(log.keep())
    while not until():
        await asyncio.sleep(0.01)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_the_keeper_writes_deletes_what_is_old_and_writes_the_rest_when_it_stops(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'd.db'}"
    log, reader = DecisionLog(FeedbackConfig(store=url, flush_s=0.02), Metrics(), "a"), DecisionStore(url)
    now = time.time()
    log.add(answered("old", "x", time=now - 31 * DAY_S))
    log.add(answered("young", "x", time=now - 29 * DAY_S))

    def done() -> bool:
        if [one.decision.id for one in reader.read()] != ["young"]:
            return False
        log.add(answered("last", "x", time=now))  # nothing is written between this and the cancellation
        return True

    asyncio.run(_keep(log, done))
    assert [one.decision.id for one in reader.read()] == ["young", "last"]
    reader.close()


def test_what_a_stopping_server_cannot_write_is_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    log = DecisionLog(FeedbackConfig(store=f"sqlite:///{tmp_path}/absent/d.db", flush_s=0.01), metrics, "a")
    log.add(answered("one", "x", "y"))
    asyncio.run(_keep(log, lambda: counted(metrics)["delayed"] > 0))
    assert counted(metrics)["lost"] == 2


def test_an_id_that_a_caller_gives_twice_is_counted_and_the_first_decision_stays(tmp_path: Path) -> None:
    metrics = Metrics()
    log = DecisionLog(FeedbackConfig(store=f"sqlite:///{tmp_path}/d.db"), metrics, "a")
    log.add(answered("same", "first"))
    log.add(answered("same", "second"))
    assert asyncio.run(log.flush())
    assert [one.decision.text for one in log.store.read()] == ["first"]
    assert counted(metrics) == {"written": 1, "repeated": 1, "lost": 0, "delayed": 0}
    assert log.store.give(next(log.store.read()).decision, Feedback(1.0, "", 1.0, None)) is None
    log.store.close()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["explore.epsilon=0.1"], "set feedback.store"),
        (["feedback.accept_days=40"], "retention_days=30"),
        (["feedback.retention_days=0"], "feedback.retention_days"),
    ],
)
def test_settings_that_do_not_fit_are_named(given: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(AppConfig, ["bundle=x", *given])


def test_a_wrong_address_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="no address"):
        DecisionLog(FeedbackConfig(store="decisions.db"), Metrics(), "a")
