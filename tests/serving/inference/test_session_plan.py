"""Plans of an engine: which are tried, and which is taken. The work measured moves a clock of its own, which neighbours do not slow."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from agent.batching import Batch
from agent.encoding import Float32
from serving.inference import session_plan
from serving.inference.engine import EngineConfig
from serving.inference.session_plan import Forward, SessionPlan, candidates, everyday, measured

BATCHES = [Batch(np.ones((4, 8), np.int64), np.ones((4, 8), np.int64), np.zeros((4, 8), np.int64))]
PLANS = [SessionPlan(2, 1), SessionPlan(1, 2), SessionPlan(2, 1, arena=False)]


def test_one_core_leaves_only_the_arena_open() -> None:
    assert candidates(EngineConfig(), num_cpus=1) == [
        SessionPlan(1, 1, on_event_loop=True),
        SessionPlan(1, 1, arena=False, on_event_loop=True),
    ]


def test_more_cores_leave_sessions_threads_and_spinning_open() -> None:
    plans = candidates(EngineConfig(), num_cpus=4)
    assert plans[0] == SessionPlan(4, 1)
    assert {
        SessionPlan(2, 2),
        SessionPlan(1, 4),
        SessionPlan(2, 2, spinning=True),
        SessionPlan(1, 4, spinning=True),
    } < set(plans)
    assert not any(plan.spinning for plan in plans if plan.threads == 1)


def test_what_the_config_says_is_not_tried_otherwise() -> None:
    config = EngineConfig(sessions=3, spinning=False, arena=True)
    assert candidates(config, num_cpus=6) == [SessionPlan(3, 2)]


def test_a_gpu_computes_one_batch_at_a_time() -> None:
    assert everyday(EngineConfig(), num_cpus=8, gpu=True).sessions == 1


class Work:
    """Opens what takes a plan's time for a batch, on a clock that all sessions share, so that they do not add up."""

    def __init__(self, seconds: dict[SessionPlan, float]) -> None:
        self._seconds, self._now, self._lock = seconds, 0.0, threading.Lock()

    def monotonic(self) -> float:
        return self._now

    def __call__(self, plan: SessionPlan) -> Forward:
        def forward(batch: Batch) -> Float32:
            with self._lock:
                self._now += self._seconds[plan]
            return np.zeros((4, 8, 3), np.float32)

        return forward


def best_of(
    plans: list[SessionPlan], seconds: dict[SessionPlan, float], monkeypatch: pytest.MonkeyPatch
) -> SessionPlan:
    work = Work(seconds)
    monkeypatch.setattr(session_plan, "time", work)
    return measured(plans, work, BATCHES)


@pytest.mark.parametrize("fastest", PLANS)
def test_the_clearly_fastest_plan_is_taken(fastest: SessionPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert best_of(PLANS, dict.fromkeys(PLANS, 0.004) | {fastest: 0.001}, monkeypatch) == fastest


def test_the_everyday_plan_stays_where_none_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [SessionPlan(1, 1), SessionPlan(1, 1, arena=False)]
    assert best_of(plans, {plans[0]: 0.0100, plans[1]: 0.0098}, monkeypatch) == plans[0]
    assert best_of(plans, {plans[0]: 0.0100, plans[1]: 0.0090}, monkeypatch) == plans[1]
