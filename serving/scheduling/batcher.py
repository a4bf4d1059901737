"""Batches waiting windows of like length under a budget of padded tokens.

The event loop cuts a batch whenever an executor is free and something waits: one batch a turn, with the network served in
between. A lone request never waits for a timer.

Order of service: earliest due first. A window is due when a multiple of its own tokens could have been computed since it
came: short texts overtake long ones, but nobody waits much longer than in the order of arrival. The windows of one request
are due one after the other, at half of the measured rate, so large requests neither starve nor starve others. A batch is
the window that is due first and its neighbours in length.

Determinism: while one request is all there is, its batches depend on its windows only, the same that
`agent.batching.cut_by_length` cuts: an idle server answers exactly as `Engine.predict` does, even where a result depends on
its batch (dynamic int8 quantization scales activations by batch).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from agent import telemetry
from agent.encoding import Float32, Window
from agent.errors import RequestError
from serving.metrics import Metrics
from serving.scheduling.executors import Executor, Outputs
from serving.scheduling.refusals import OverloadError
from serving.scheduling.request_queue import Item, RequestQueue

_log = logging.getLogger(__name__)
_SMOOTHING = 0.1  # weight of the newest batch in the measured rate
_FIRST_GUESS_TOKENS_PER_S = 2_000.0  # until the first batch is measured
_SHARE = 0.5  # of the rate, by which the windows of one request are due


class Caller(Protocol):
    """Who waits for windows."""

    def deliver(self, place: int, output: Float32) -> None:
        """Takes the logits of one window, possibly with padded rows at the end."""

    def fail(self, error: Exception) -> None:
        """Told that a batch with one of its windows failed."""


class Submission:
    """The windows of one caller: how many still wait for a batch, and when the first was computed."""

    __slots__ = ("arrival", "caller", "number", "started", "waiting")

    def __init__(self, number: int, arrival: float, caller: Caller, waiting: int) -> None:
        self.number, self.arrival, self.caller, self.waiting = number, arrival, caller, waiting
        self.started: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a batcher keeps to.

    Attributes:
        max_batch_tokens: Budget of a batch: longest window times windows. A longer window gets a batch of its own.
        overtaking: Tokens that may overtake a window by being shorter, as a multiple of its own.
        max_wait_s: Seconds for which a window may be overtaken at most.
        max_queued_tokens: What may wait.
        max_queued_s: Seconds for which a new request may have to wait for those that are served before it.
    """

    max_batch_tokens: int = 128
    overtaking: float = 16.0
    max_wait_s: float = 0.5
    max_queued_tokens: int = 65_536
    max_queued_s: float = math.inf


class TokenBatcher:
    """Batches windows for an executor; to be used on one event loop.

    Args:
        executor: Computes batches.
        bounds: What to keep to.
        metrics: Where batches and the queue are observed.
    """

    def __init__(self, executor: Executor, bounds: Bounds, metrics: Metrics | None = None) -> None:
        self._executor, self._bounds = executor, bounds
        self._free = executor.num_workers
        self._turn_is_due = self._closed = False
        self._queue: RequestQueue[Submission] = RequestQueue(bounds.max_batch_tokens)
        self._submissions: OrderedDict[int, Submission] = OrderedDict()  # those with waiting windows, oldest first
        self._numbers = itertools.count()
        self._rate = _FIRST_GUESS_TOKENS_PER_S
        self._measured = False
        self._work, self._work_since = 0.0, time.monotonic()
        self.failures_in_a_row = 0
        metrics = metrics or Metrics()
        self._queue_seconds = metrics.histogram(telemetry.STAGE_SECONDS, stage="queue")
        self._infer_seconds = metrics.histogram(telemetry.STAGE_SECONDS, stage="infer")
        self._batch_windows = metrics.histogram(telemetry.BATCH_WINDOWS)
        self._batch_tokens = metrics.histogram(telemetry.BATCH_TOKENS)
        self._tokens, self._padded = metrics.counter(telemetry.TOKENS), metrics.counter(telemetry.PADDED_TOKENS)

    def submit(self, windows: Sequence[Window], caller: Caller) -> Submission:
        """Queues windows; the caller is told of each as soon as its batch is computed, never before this returns.

        Raises:
            OverloadError: The queue has no room for them.
            RequestError: They are more than the queue could ever hold.
        """
        submission = self._admit(windows, caller)
        self._schedule()
        return submission

    def withdraw(self, submission: Submission) -> None:
        """Drops the windows of a submission that still wait."""
        if submission.waiting:
            self._account(self._queue.drop(submission))

    def retry_after_s(self) -> int:
        """Whole seconds until the queue should be empty, by the measured rate; at least 1."""
        return max(1, math.ceil(self.queued_s))

    @property
    def queued_s(self) -> float:
        """Seconds that the waiting tokens will take, by the measured rate."""
        return self._queue.num_tokens / self._rate

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait."""
        return self._queue.num_tokens

    @property
    def queued_windows(self) -> int:
        """Windows that wait."""
        return len(self._queue)

    def check_wait(self, length: int) -> None:
        """Refuses what would wait too long, to be asked before work is spent on it; never while no more than a batch waits.

        Args:
            length: Tokens of the longest window, or a guess at them.

        Raises:
            OverloadError: It would wait longer than `max_queued_s`, or another one already has.
        """
        if self._queue.num_tokens <= self._bounds.max_batch_tokens:
            return  # the next batch holds most of it; a first batch that was slow would say that it takes long
        waited_s = self._longest_wait_s()
        if waited_s > self._bounds.max_queued_s:
            raise OverloadError(
                f"the server is busy: a request has waited for {waited_s:.1f} s", retry_after_s=self.retry_after_s()
            )
        if self.queued_s <= self._bounds.max_queued_s:
            return
        ahead_s = self._queue.tokens_due_by(time.monotonic() + self._overtaken_s(length)) / self._rate
        if ahead_s > self._bounds.max_queued_s:
            raise OverloadError(
                f"the server is busy: the request would wait for {ahead_s:.1f} s", retry_after_s=self.retry_after_s()
            )

    def take_load(self) -> float:
        """How much of what the executor can do it did since the last call, 0 to 1.

        The time it computed, weighted by how full its batches were: one that always computes, but half-empty batches,
        could take on as much again.
        """
        now = time.monotonic()
        room = self._executor.num_workers * (now - self._work_since)
        load = min(1.0, self._work / room) if room else 0.0
        self._work, self._work_since = 0.0, now
        return load

    def close(self) -> None:
        """Lets running batches finish and takes no more."""
        self._closed = True
        self._executor.close()

    def _longest_wait_s(self) -> float:
        """For how long the oldest request has waited of which nothing is computed yet.

        What overtakes it is not foreseen by counting what is there: under load more shorter ones come.
        """
        for submission in self._submissions.values():
            if submission.started is None:
                return time.monotonic() - submission.arrival
        return 0.0

    def _admit(self, windows: Sequence[Window], caller: Caller) -> Submission:
        lengths = [len(window.input_ids) for window in windows]
        tokens = sum(lengths)
        if tokens > self._bounds.max_queued_tokens:
            raise RequestError(
                f"the request holds {tokens} tokens",
                allowed=f"at most {self._bounds.max_queued_tokens} tokens",
                remedy="send fewer or shorter texts in one request",
                status=413,
                field="inputs",
            )
        if self._queue.num_tokens + tokens > self._bounds.max_queued_tokens:
            raise OverloadError("the server is busy: its queue is full", retry_after_s=self.retry_after_s())
        self.check_wait(max(lengths))
        now, before = time.monotonic(), 0
        submission = Submission(next(self._numbers), now, caller, len(windows))
        for place in sorted(range(len(windows)), key=lengths.__getitem__) if len(windows) > 1 else (0,):
            length = lengths[place]
            due = now + self._overtaken_s(length) + before / (_SHARE * self._rate)
            self._queue.add(Item(windows[place], submission, place, number=next(self._numbers), due=due))
            before += length
        self._submissions[submission.number] = submission
        return submission

    def _schedule(self) -> None:
        if self._free and self._queue and not (self._turn_is_due or self._closed):
            self._turn_is_due = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Starts one batch; what came in meanwhile is read before the next."""
        self._turn_is_due = False
        if not self._free or not self._queue:
            return
        batch, now = self._queue.take(), time.monotonic()
        self._account(batch)
        for item in batch:
            if item.owner.started is None:
                item.owner.started = now
                self._queue_seconds.observe(now - item.owner.arrival)
        self._free -= 1
        self._executor.start([item.window for item in batch], partial(self._done, batch))
        self._schedule()

    def _done(self, batch: list[Item[Submission]], outputs: Outputs, seconds: float) -> None:
        self._free += 1
        self._schedule()
        if isinstance(outputs, Exception):
            self.failures_in_a_row += 1
            for submission in {id(item.owner): item.owner for item in batch}.values():
                submission.caller.fail(outputs)
            return
        self.failures_in_a_row = 0
        self._learn(batch, seconds)
        for item, output in zip(batch, outputs, strict=True):
            try:
                item.owner.caller.deliver(item.place, output)
            except Exception:  # noqa: BLE001 - the others in the batch are not to blame
                _log.exception("an answer could not be delivered")

    def _overtaken_s(self, length: int) -> float:
        """For how long a window may be overtaken by shorter ones."""
        return min(self._bounds.max_wait_s, self._bounds.overtaking * length / self._rate)

    def _account(self, items: list[Item[Submission]]) -> None:
        """Counts windows that no longer wait."""
        for item in items:
            item.owner.waiting -= 1
            if not item.owner.waiting:
                self._submissions.pop(item.owner.number, None)

    def _learn(self, batch: list[Item[Submission]], seconds: float) -> None:
        tokens, padded = sum(item.length for item in batch), batch[-1].length * len(batch)
        rate = self._executor.num_workers * tokens / max(seconds, 1e-6)
        self._rate += (rate - self._rate) * (_SMOOTHING if self._measured else 1.0)
        self._measured = True
        self._work += seconds * min(1.0, padded / self._bounds.max_batch_tokens)
        self._infer_seconds.observe(seconds)
        self._batch_windows.observe(len(batch))
        self._batch_tokens.observe(padded)
        self._tokens.add(tokens)
        self._padded.add(padded)
