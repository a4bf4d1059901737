"""Replicas follow the work: what replicas tell, and how many replicas come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from serving.ray_serve.app_config import ReplicaConfig
from serving.ray_serve.autoscaling import TokenLoadPolicy
from serving.scheduling.batcher import TokenBatcher
from tests.serving.scheduling.test_batcher import BUDGET, Model, drive, run, window


def wanted(told: dict[str, Sequence[float]] | None, replicas: int = 2) -> float:
    metrics = {name: dict(enumerate(values)) for name, values in told.items()} if told is not None else None
    context: Any = SimpleNamespace(
        current_num_replicas=replicas, target_num_replicas=replicas, aggregated_metrics=metrics
    )
    return TokenLoadPolicy(target_load=0.5, target_queued_s=0.25)(context)[0]


@pytest.mark.parametrize(
    ("told", "replicas"),
    [
        ({"load": [0.5, 0.5], "queued_s": [0, 0]}, 2),
        ({"load": [1.0, 1.0], "queued_s": [0.1, 0.1]}, 4),
        ({"load": [1.0, 1.0], "queued_s": [1.0, 0.75]}, 7),
        ({"load": [0.25, 0.0], "queued_s": [0, 0]}, 0.5),
        ({}, 2),
        (None, 2),
    ],
)
def test_the_worse_of_load_and_queue_decides(told: dict[str, Sequence[float]] | None, replicas: float) -> None:
    assert wanted(told) == pytest.approx(replicas)


def test_without_replicas_the_target_stays() -> None:
    assert wanted({"load": [], "queued_s": []}, replicas=0) == 0


def test_load_is_the_time_computed_times_the_fill_of_batches() -> None:
    async def scenario(batcher: TokenBatcher) -> list[tuple[float, float]]:
        found = []
        for length in (BUDGET // 2, BUDGET * 2):
            started = time.monotonic()
            batcher.take_load()
            await run(batcher, [window(length)])
            found.append((batcher.take_load(), time.monotonic() - started))
        return found

    (half, half_s), (full, full_s) = drive(Model(seconds=0.2), scenario)
    assert 0.5 * 0.2 / half_s <= half <= 0.5  # on a busy machine more than 0.2 s pass
    assert 0.2 / full_s <= full <= 1


def test_waiting_work_is_told_in_seconds() -> None:
    model = Model(seconds=0.1)

    async def scenario(batcher: TokenBatcher) -> tuple[float, float]:
        started = time.monotonic()
        await run(batcher, [window(BUDGET)])  # about 10 x BUDGET tokens a second; fewer on a busy machine
        took = time.monotonic() - started
        waiting = [asyncio.create_task(run(batcher, [window(BUDGET)])) for _ in range(6)]
        await asyncio.sleep(0)
        seconds = batcher.queued_s
        await asyncio.gather(*waiting)
        return seconds, took

    seconds, took = drive(model, scenario)
    assert 5 * 0.1 <= seconds <= 6 * took


def test_no_replica_at_rest_is_allowed() -> None:
    assert ReplicaConfig(min_replicas=0).min_replicas == 0
    with pytest.raises(ValueError, match="max_replicas is 0"):
        ReplicaConfig(min_replicas=0, max_replicas=0)
