"""Batches waiting texts to write under a budget of tokens, and delivers each as soon as it is written.

CTranslate2 computes a batch to its end and batches nothing across calls. So a batch is given up in slices: when each of its texts has
`slice_steps` more tokens and others wait, it ends; what is unfinished waits again, with what is written of it, and is due like work that has
just come. The wait of a short text behind long ones is bounded by that (docs/serving.md). Beams cannot be ended and are computed whole.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from agent import telemetry
from serving.inference.writer import WritingJob
from serving.inference.writing_engine import WritingEngine
from serving.metrics import Metrics
from serving.scheduling.batch_scheduler import BatchScheduler, Bounds, Submission
from serving.scheduling.request_queue import Item
from serving.scheduling.writing.grouped_queue import GroupedQueue

_log = logging.getLogger(__name__)
_SMOOTHING = 0.05  # weight of the newest text in how much is written of how much
_FIRST_RATIO = 1.0

Waiting = Item[WritingJob, Submission]


class WritingBatcher(BatchScheduler[WritingJob]):
    """Batches texts to write; to be used on one event loop.

    Args:
        engine: Writes them.
        bounds: What to keep to; tokens are those of a text and of what is expected to be written of it, for each beam.
        metrics: Where batches and the queue are observed.
        num_workers: Batches at once; default: as many as the engine writes.
    """

    def __init__(
        self, engine: WritingEngine, bounds: Bounds, metrics: Metrics | None = None, *, num_workers: int | None = None
    ) -> None:
        num_workers = num_workers or engine.plan.sessions
        super().__init__(GroupedQueue(bounds.max_batch_tokens), num_workers, bounds, metrics)
        metrics = metrics or Metrics()
        self._generated = metrics.counter(telemetry.GENERATED_TOKENS)
        self._first_seconds = metrics.histogram(telemetry.FIRST_TOKEN_SECONDS)
        self._token_seconds = metrics.histogram(telemetry.TOKEN_SECONDS)
        self._engine = engine
        self._pool = ThreadPoolExecutor(num_workers, "writer")
        self._ratio = _FIRST_RATIO  # tokens written of each that is given
        self._running: set[Waiting] = set()

    def withdraw(self, submission: Submission) -> None:
        """Drops the texts of a submission that still wait; those that are written end with their next token."""
        super().withdraw(submission)
        for item in self._running:
            if item.owner is submission:
                item.work.abandoned = True

    def close(self) -> None:
        """Lets running batches finish and takes no more."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _length(self, work: WritingJob) -> int:
        given, written = len(work.given), len(work.written.numbers)
        expected = min(work.written.left, max(1, math.ceil(self._ratio * given) - written))
        return (given + written + expected) * work.settings.num_beams

    def _start(self, batch: list[Waiting]) -> None:
        loop, jobs, queue = asyncio.get_running_loop(), [item.work for item in batch], self._queue
        self._running.update(batch)
        before = [len(job.written.numbers) for job in jobs]

        def later(call: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # a loop that has ended has no callers left
                loop.call_soon_threadsafe(call, *arguments)

        def work() -> None:
            started, error = time.monotonic(), None
            try:
                self._engine.write(jobs, lambda: queue.num_tokens > 0, lambda index: later(self._deliver, batch[index]))
            except Exception as caught:  # noqa: BLE001 - whatever the model raises belongs to those who wait for it
                error = caught
            later(self._done, batch, before, error, time.monotonic() - started)

        self._pool.submit(work)

    def _deliver(self, item: Waiting) -> None:
        """A text is written."""
        job = item.work
        written = len(job.written.numbers)
        self._ratio += _SMOOTHING * (written / max(len(job.given), 1) - self._ratio)
        if job.first_at:
            self._first_seconds.observe(job.first_at - item.owner.arrival)
            if written > 1:
                self._token_seconds.observe((job.last_at - job.first_at) / (written - 1))
        try:
            item.owner.caller.deliver(item.place, job)
        except Exception:  # noqa: BLE001 - the others in the batch are not to blame
            _log.exception("an answer could not be delivered")

    def _done(self, batch: list[Waiting], before: list[int], error: Exception | None, seconds: float) -> None:
        self._running.difference_update(batch)
        self._generated.add(
            sum(len(item.work.written.numbers) - first for item, first in zip(batch, before, strict=True))
        )
        unfinished = [item for item in batch if not (item.work.over or item.work.abandoned)]
        if error is not None:
            self._ended()
            self.failures_in_a_row += 1
            for submission in {id(item.owner): item.owner for item in unfinished}.values():
                submission.caller.fail(error)
            return
        self.failures_in_a_row = 0
        tokens = sum(_computed(item.work, first) for item, first in zip(batch, before, strict=True))
        self._learn(len(batch), tokens, max(item.length for item in batch) * len(batch), seconds)
        for item in unfinished:
            self._wait_again(item)
        self._ended()

    def _wait_again(self, item: Waiting) -> None:
        """An unfinished text is due as if it had just come: what came meanwhile and is shorter goes first."""
        length, owner = self._length(item.work), item.owner
        due = time.monotonic() + self._overtaken_s(length)
        self._queue.add(Item(item.work, owner, item.place, length, next(self._numbers), due))
        owner.waiting += 1
        self._submissions.setdefault(owner.number, owner)


def _computed(job: WritingJob, before: int) -> int:
    """Tokens that a call computed of a job of which so many were written before; what was there is read once more."""
    return (len(job.given) + before + max(0, len(job.written.numbers) - before)) * job.settings.num_beams
