"""Work that is computed in batches: admits it, keeps it until it is due, and starts a batch whenever an executor is free.

The event loop cuts a batch whenever an executor is free and something waits: one batch a turn, with the network served in
between. A lone request never waits for a timer.

Order of service: earliest due first. Work is due when a multiple of its own tokens could have been computed since it
came: what is short overtakes what is long, but nobody waits much longer than in the order of arrival. The works of one request
are due one after the other, at half of the measured rate, so large requests neither starve nor starve others. A batch is
what is due first and its neighbours in length.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from agent import telemetry
from agent.errors import RequestError
from serving.metrics import Metrics
from serving.scheduling.refusals import OverloadError
from serving.scheduling.request_queue import Item, Work

_SMOOTHING = 0.1  # weight of the newest batch in the measured rate
_FIRST_GUESS_TOKENS_PER_S = 2_000.0  # until the first batch is measured
_SHARE = 0.5  # of the rate, by which the works of one request are due


class Caller(Protocol):
    """Who waits for work."""

    def deliver(self, place: int, output: Any) -> None:
        """Takes what came of one work: of a window its logits, possibly with padded rows at the end; of a text to write its job."""

    def fail(self, error: Exception) -> None:
        """Told that a batch with one of its works failed."""


class Submission:
    """The works of one caller: how many still wait for a batch, and when the first was computed."""

    __slots__ = ("arrival", "caller", "number", "started", "waiting")

    def __init__(self, number: int, arrival: float, caller: Caller, waiting: int) -> None:
        self.number, self.arrival, self.caller, self.waiting = number, arrival, caller, waiting
        self.started: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a batcher keeps to.

    Attributes:
        max_batch_tokens: Budget of a batch: greatest length times works. Longer work gets a batch of its own.
        overtaking: Tokens that may overtake work by being shorter, as a multiple of its own.
        max_wait_s: Seconds for which work may be overtaken at most.
        max_queued_tokens: What may wait.
        max_queued_s: Seconds for which a new request may have to wait for those that are served before it.
    """

    max_batch_tokens: int = 128
    overtaking: float = 16.0
    max_wait_s: float = 0.5
    max_queued_tokens: int = 65_536
    max_queued_s: float = math.inf


class Queue(Protocol[Work]):
    """What waits, as `request_queue.RequestQueue` keeps it."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all that waits."""

    def __len__(self) -> int:
        """How many items wait."""

    def add(self, item: Item[Work, Submission]) -> None:
        """Puts one in."""

    def take(self) -> list[Item[Work, Submission]]:
        """Takes a batch out; something has to wait."""

    def drop(self, owner: Submission) -> list[Item[Work, Submission]]:
        """Takes out everything of an owner."""

    def tokens_due_by(self, time_s: float) -> int:
        """Tokens of all that is due by then."""


class BatchScheduler(ABC, Generic[Work]):
    """Admits work and starts batches; to be used on one event loop.

    Args:
        queue: Where work waits; empty.
        num_workers: Batches that are computed at once.
        bounds: What to keep to.
        metrics: Where batches and the queue are observed.
    """

    def __init__(self, queue: Queue[Work], num_workers: int, bounds: Bounds, metrics: Metrics | None = None) -> None:
        self._num_workers, self._bounds, self._queue = num_workers, bounds, queue
        self._free = num_workers
        self._turn_is_due = self._closed = False
        self._submissions: OrderedDict[int, Submission] = OrderedDict()  # those with waiting works, oldest first
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

    @abstractmethod
    def close(self) -> None:
        """Lets running batches finish and takes no more."""

    @abstractmethod
    def _length(self, work: Work) -> int:
        """Tokens that work is expected to take."""

    def _group(self, work: Work) -> int:
        """Only works of one group share a batch."""
        return 0

    @abstractmethod
    def _start(self, batch: list[Item[Work, Submission]]) -> None:
        """Begins to compute a batch, of which `_ended` is to be told."""

    def submit(self, works: Sequence[Work], caller: Caller) -> Submission:
        """Queues work; the caller is told of each as soon as its batch is computed, never before this returns.

        Raises:
            OverloadError: The queue has no room for them.
            RequestError: They are more than the queue could ever hold.
        """
        submission = self._admit(works, caller)
        self._schedule()
        return submission

    def go_on(self, submission: Submission, works: Sequence[tuple[int, Work]]) -> None:
        """Queues further works of a submission, each with its place: due as if they had come with it, and never refused."""
        for place, work in works:
            length = self._length(work)
            due = submission.arrival + self._overtaken_s(length)
            self._queue.add(Item(work, submission, place, length, next(self._numbers), due, group=self._group(work)))
        submission.waiting += len(works)
        self._submissions[submission.number] = submission
        self._schedule()

    def withdraw(self, submission: Submission) -> None:
        """Drops the works of a submission that still wait."""
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
        """Windows or texts that wait."""
        return len(self._queue)

    def check_wait(self, length: int) -> None:
        """Refuses what would wait too long, to be asked before work is spent on it; never while no more than a batch waits.

        Args:
            length: Tokens of the longest work, or a guess at them.

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
        room = self._num_workers * (now - self._work_since)
        load = min(1.0, self._work / room) if room else 0.0
        self._work, self._work_since = 0.0, now
        return load

    def _longest_wait_s(self) -> float:
        """For how long the oldest request has waited of which nothing is computed yet.

        What overtakes it is not foreseen by counting what is there: under load more shorter ones come.
        """
        for submission in self._submissions.values():
            if submission.started is None:
                return time.monotonic() - submission.arrival
        return 0.0

    def _admit(self, works: Sequence[Work], caller: Caller) -> Submission:
        lengths = [self._length(work) for work in works]
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
        submission = Submission(next(self._numbers), now, caller, len(works))
        for place in sorted(range(len(works)), key=lengths.__getitem__) if len(works) > 1 else (0,):
            length = lengths[place]
            due = now + self._overtaken_s(length) + before / (_SHARE * self._rate)
            number = next(self._numbers)
            work = works[place]
            self._queue.add(Item(work, submission, place, length, number, due, group=self._group(work)))
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
        self._start(batch)
        self._schedule()

    def _overtaken_s(self, length: int) -> float:
        """For how long a window may be overtaken by shorter ones."""
        return min(self._bounds.max_wait_s, self._bounds.overtaking * length / self._rate)

    def _account(self, items: list[Item[Work, Submission]]) -> None:
        """Counts works that no longer wait."""
        for item in items:
            item.owner.waiting -= 1
            if not item.owner.waiting:
                self._submissions.pop(item.owner.number, None)

    def _ended(self) -> None:
        """A batch is over: another one may begin."""
        self._free += 1
        self._schedule()

    def _learn(self, num_works: int, tokens: int, padded: int, seconds: float) -> None:
        """Measures the rate by a batch that was computed, and observes it."""
        rate = self._num_workers * tokens / max(seconds, 1e-6)
        self._rate += (rate - self._rate) * (_SMOOTHING if self._measured else 1.0)
        self._measured = True
        self._work += seconds * min(1.0, padded / self._bounds.max_batch_tokens)
        self._infer_seconds.observe(seconds)
        self._batch_windows.observe(num_works)
        self._batch_tokens.observe(padded)
        self._tokens.add(tokens)
        self._padded.add(padded)
