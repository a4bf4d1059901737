"""One version of the agent in a replica: its engine, its queue, and how many requests it is answering."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.inference.engine import Engine
from serving.inference.served_engine import ServedEngine
from serving.inference.triple_engine import TripleEngine
from serving.inference.writing_engine import WritingEngine
from serving.metrics import Metrics
from serving.scheduling.batch_scheduler import BatchScheduler, Bounds
from serving.scheduling.batcher import TokenBatcher
from serving.scheduling.executors import Executor, LoopExecutor, ThreadExecutor
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.refusals import OverloadError
from serving.scheduling.writing.writing_batcher import WritingBatcher
from serving.shift.drift_watch import DriftWatch


class ModelVersion:
    """One version of the agent with a queue of its own.

    Args:
        engine: What computes; warm.
        limits: How much may wait, and how many requests are answered at once.
        metrics: Where batches are observed.

    Attributes:
        limits: As given.
        seeded: The queue of what an agent that writes draws by seeds, one text at a time; None of other agents.
        tagger: What finds the entities whose relations it knows, with a queue of its own; None where nobody does.
        drift: What looks for drift in its texts; None where nobody does, as in a candidate's.
        in_flight: Requests that it is answering.
    """

    def __init__(self, engine: ServedEngine, limits: LimitsConfig, metrics: Metrics) -> None:
        self.engine, self.limits = engine, limits
        self.tagger = ModelVersion(engine.tagger, limits, metrics) if isinstance(engine, TripleEngine) else None
        self.batcher = _batcher(engine, limits, metrics)
        self.seeded = _seeded_batcher(engine, limits, metrics)
        self.drift: DriftWatch | None = None
        self.in_flight = 0
        self._left = asyncio.Event()

    def check_room(self) -> None:
        """Refuses another request while as many are answered as may be.

        Raises:
            OverloadError: That many are.
        """
        if self.in_flight >= self.limits.max_concurrent_requests:
            raise OverloadError(
                "the server is busy: too many requests in flight", retry_after_s=self.batcher.retry_after_s()
            )

    async def drain(self) -> None:
        """Waits until nobody waits for an answer of this version, then ends its threads."""
        while self.in_flight:
            self._left.clear()
            await self._left.wait()
        self.close()

    @property
    def batchers(self) -> list[BatchScheduler[Any]]:
        """Its queues, and that of its tagger."""
        return [self.batcher, *filter(None, (self.seeded, self.tagger.batcher if self.tagger else None))]

    def close(self) -> None:
        """Ends its threads."""
        for batcher in self.batchers:
            batcher.close()

    def enter(self) -> None:
        """A request begins."""
        self.in_flight += 1

    def leave(self) -> None:
        """A request ends."""
        self.in_flight -= 1
        if not self.in_flight:
            self._left.set()


def _batcher(engine: ServedEngine, limits: LimitsConfig, metrics: Metrics) -> BatchScheduler[Any]:
    """The queue for what an engine computes: texts to write, or windows."""
    if isinstance(engine, WritingEngine):
        return WritingBatcher(engine, _writing_bounds(engine, limits), metrics)
    assert isinstance(engine, Engine)
    return TokenBatcher(_executor(engine), _bounds(engine, limits, engine.config.max_batch_tokens), metrics)


def _seeded_batcher(engine: ServedEngine, limits: LimitsConfig, metrics: Metrics) -> WritingBatcher | None:
    if not isinstance(engine, WritingEngine):
        return None
    return WritingBatcher(engine, _writing_bounds(engine, limits), metrics, num_workers=1)


def _writing_bounds(engine: WritingEngine, limits: LimitsConfig) -> Bounds:
    return _bounds(engine, limits, engine.config.writing.max_batch_tokens)


def _bounds(engine: Engine | WritingEngine, limits: LimitsConfig, max_batch_tokens: int) -> Bounds:
    return Bounds(
        max_batch_tokens=max_batch_tokens,
        max_wait_s=engine.config.max_wait_s,
        max_queued_tokens=limits.max_queued_tokens,
        max_queued_s=limits.max_queued_s,
    )


def _executor(engine: Engine) -> Executor:
    if engine.plan.on_event_loop:
        return LoopExecutor(engine.forward_windows)
    return ThreadExecutor(engine.forward_windows, engine.plan.sessions)
