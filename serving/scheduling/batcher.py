"""Puts waiting windows into batches of like length under a budget of padded tokens. Knows nothing of HTTP or models.

A batch is cut the moment a worker is free, so a lone request never waits for a timer. A worker that is done cuts its next
batch itself, without asking the event loop, which may be busy for milliseconds with other requests while cores stand
still.

Order of service: earliest due first. A window is due when work of a multiple of its own length could have overtaken it, so
short texts pass long ones, but nobody waits much longer than in the order of arrival. The windows of one request are due
one after the other, at half of the measured rate, so large requests neither starve nor starve others. A batch is what is due
next and its neighbours in length.

Determinism: while one request is all there is, its batches are a pure function of its windows, the same that
`agent.batching.cut_by_length` cuts, whatever the timing and the number of workers: the shortest is due first, and cutting the
shortest batch off the front again and again is what that function does. So an idle server answers exactly as
`Engine.predict` does, even where a result depends on its batch (dynamic int8 quantisation scales activations by batch).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent import telemetry
from agent.encoding import Float32, Window
from agent.errors import RequestError
from serving.metrics import Metrics
from serving.scheduling.request_queue import Item, RequestQueue

Forward = Callable[[Sequence[Window]], Sequence[Float32]]
"""Windows of one batch to their logits, in order. Called in worker threads, several at once."""

_SMOOTHING = 0.1  # weight of the newest batch in the measured rate
_FIRST_GUESS_TOKENS_PER_S = 2_000.0  # until the first batch is measured
_NICER = 4  # than the event loop are workers
_SHARE = 0.5  # of the rate, by which the windows of one request are due


class OverloadError(RequestError):
    """The server has as much work waiting as it takes on.

    Args:
        what: What was full.
        retry_after_s: Seconds until there should be room.
    """

    def __init__(self, what: str, *, retry_after_s: int) -> None:
        super().__init__(what, remedy=f"send the request again in {retry_after_s} s", status=429)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_overload, (self.what, self.retry_after_s)


def _restore_overload(what: str, retry_after_s: int) -> OverloadError:
    return OverloadError(what, retry_after_s=retry_after_s)


@dataclass(eq=False)
class _Request:
    """The windows of one caller: how many still wait for a batch, how many for their logits."""

    number: int
    arrival: float
    done: asyncio.Future[None]
    outputs: dict[int, Float32]
    waiting: int
    unanswered: int
    started: float | None = None


_Item = Item[_Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a batcher keeps to.

    Attributes:
        num_workers: Batches computed at once.
        max_batch_tokens: Budget of a batch: longest window times windows. A longer window gets a batch of its own.
        overtaking: Tokens that may overtake a window by being shorter, as a multiple of its own.
        max_wait_s: Seconds for which a window may be overtaken at most.
        max_queued_tokens: What may wait.
        max_queued_s: Seconds for which a new request may have to wait for those that are served before it.
    """

    num_workers: int = 1
    max_batch_tokens: int = 128
    overtaking: float = 16.0
    max_wait_s: float = 0.5
    max_queued_tokens: int = 65_536
    max_queued_s: float = math.inf


class TokenBatcher:
    """Batches windows for a number of workers.

    Args:
        forward: Computes a batch; called in threads, at most `num_workers` at once.
        bounds: What to keep to.
        metrics: Where batches and the queue are observed.
    """

    def __init__(self, forward: Forward, bounds: Bounds, metrics: Metrics | None = None) -> None:
        self._forward, self._bounds = forward, bounds
        self._metrics = metrics or Metrics()
        self._pool = ThreadPoolExecutor(bounds.num_workers, "batch", _stand_back)
        self._free = bounds.num_workers
        self._line: RequestQueue[_Request] = RequestQueue(bounds.max_batch_tokens)
        self._requests: OrderedDict[int, _Request] = OrderedDict()  # those with waiting windows, oldest first
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # of all that workers and the event loop change
        self._closed = False
        self._rate = _FIRST_GUESS_TOKENS_PER_S
        self._measured = False
        self._work, self._work_since = 0.0, time.monotonic()
        self.failures_in_a_row = 0

    async def run(self, windows: Sequence[Window]) -> list[Float32]:
        """Computes windows, batched with whatever else waits.

        Returns:
            The logits of each window, in order; possibly with padded rows at the end.

        Raises:
            OverloadError: The queue has no room for them.
            RequestError: They are more than the queue could ever hold.
        """
        if not windows:
            return []
        with self._lock:
            request = self._admit(windows)
            self._dispatch()
        try:
            await request.done
        finally:  # cancelled callers and failed batches leave windows behind
            if request.waiting:
                with self._lock:
                    self._forget(request)
        if request.started is not None:
            self._metrics.observe(telemetry.STAGE_SECONDS, request.started - request.arrival, stage="queue")
        return [request.outputs[place] for place in range(len(windows))]

    def retry_after_s(self) -> int:
        """Whole seconds until the queue should be empty, by the measured rate; at least 1."""
        return max(1, math.ceil(self.queued_s))

    @property
    def queued_s(self) -> float:
        """Seconds that the waiting tokens will take, by the measured rate."""
        return self._line.num_tokens / self._rate

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait."""
        return self._line.num_tokens

    @property
    def queued_windows(self) -> int:
        """Windows that wait."""
        return len(self._line)

    def check_wait(self, length: int) -> None:
        """Refuses what would wait too long, to be asked before work is spent on it.

        Args:
            length: Tokens of the longest window, or a guess at them.

        Raises:
            OverloadError: It would wait longer than `max_queued_s`, or another one already has.
        """
        with self._lock:
            self._check_wait(length)

    def _check_wait(self, length: int) -> None:
        waited_s = self._longest_wait_s()
        if waited_s > self._bounds.max_queued_s:
            raise OverloadError(
                f"the server is busy: a request has waited for {waited_s:.1f} s", retry_after_s=self.retry_after_s()
            )
        if self.queued_s <= self._bounds.max_queued_s:
            return
        ahead_s = self._line.tokens_due_by(time.monotonic() + self._overtaken_s(length)) / self._rate
        if ahead_s > self._bounds.max_queued_s:
            raise OverloadError(
                f"the server is busy: the request would wait for {ahead_s:.1f} s", retry_after_s=self.retry_after_s()
            )

    def _longest_wait_s(self) -> float:
        """For how long the oldest request has waited of which nothing is computed yet.

        What overtakes it is not foreseen by counting what is there: under load more shorter ones come.
        """
        unstarted = (request for request in self._requests.values() if request.started is None)
        oldest = next(unstarted, None)
        return time.monotonic() - oldest.arrival if oldest else 0.0

    def take_load(self) -> float:
        """How much of what the workers can do they did since the last call, 0 to 1.

        The time they computed, weighted by how full their batches were: a worker that always computes, but half-empty
        batches, could take on as much again.
        """
        now = time.monotonic()
        room = self._bounds.num_workers * (now - self._work_since)
        load = min(1.0, self._work / room) if room else 0.0
        self._work, self._work_since = 0.0, now
        return load

    def close(self) -> None:
        """Lets running batches finish and takes no more."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _admit(self, windows: Sequence[Window]) -> _Request:
        tokens = sum(len(window.input_ids) for window in windows)
        if tokens > self._bounds.max_queued_tokens:
            raise RequestError(
                f"the request holds {tokens} tokens",
                allowed=f"at most {self._bounds.max_queued_tokens} tokens",
                remedy="send fewer or shorter texts in one request",
                status=413,
                field="inputs",
            )
        if self.queued_tokens + tokens > self._bounds.max_queued_tokens:
            raise OverloadError("the server is busy: its queue is full", retry_after_s=self.retry_after_s())
        self._check_wait(max(len(window.input_ids) for window in windows))
        done, now, before = asyncio.get_running_loop().create_future(), time.monotonic(), 0
        request = _Request(next(self._numbers), now, done, {}, len(windows), len(windows))
        for place, window in sorted(enumerate(windows), key=lambda pair: len(pair[1].input_ids)):
            length = len(window.input_ids)
            due = now + self._overtaken_s(length) + before / (_SHARE * self._rate)
            self._line.add(Item(length, next(self._numbers), due, window, request, place))
            before += length
        self._requests[request.number] = request
        return request

    def _dispatch(self) -> None:
        while self._free and self._line:
            self._free -= 1
            self._pool.submit(self._work_off, self._take())

    def _work_off(self, batch: list[_Item] | None) -> None:
        """What a worker does: this batch, then whatever waits."""
        while batch:
            self._compute(batch)
            with self._lock:
                if self._line and not self._closed:
                    batch = self._take()
                else:
                    batch, self._free = None, self._free + 1

    def _take(self) -> list[_Item]:
        batch, now = self._line.take(), time.monotonic()
        self._account(batch)
        for item in batch:
            item.owner.started = item.owner.started or now
        return batch

    def _overtaken_s(self, length: int) -> float:
        """For how long a window may be overtaken by shorter ones."""
        return min(self._bounds.max_wait_s, self._bounds.overtaking * length / self._rate)

    def _account(self, items: list[_Item]) -> None:
        """Counts windows of requests that no longer wait."""
        for item in items:
            item.owner.waiting -= 1
            if not item.owner.waiting:
                self._requests.pop(item.owner.number, None)

    def _forget(self, request: _Request) -> None:
        self._account(self._line.drop(request))

    def _compute(self, batch: list[_Item]) -> None:
        started = time.monotonic()
        try:
            outputs = self._forward([item.window for item in batch])
        except Exception as error:  # noqa: BLE001 - whatever the model raises belongs to those who wait for it
            self.failures_in_a_row += 1
            _on_loop(batch, _fail, error)
        else:
            self.failures_in_a_row = 0
            seconds = time.monotonic() - started
            tokens, padded = sum(item.length for item in batch), batch[-1].length * len(batch)
            self._learn(seconds, tokens, padded)
            _on_loop(batch, _deliver, outputs)
            self._observe(batch, seconds, tokens, padded)

    def _learn(self, seconds: float, tokens: int, padded: int) -> None:
        rate = self._bounds.num_workers * tokens / max(seconds, 1e-6)
        with self._lock:
            self._rate += (rate - self._rate) * (_SMOOTHING if self._measured else 1.0)
            self._measured = True
            self._work += seconds * min(1.0, padded / self._bounds.max_batch_tokens)

    def _observe(self, batch: list[_Item], seconds: float, tokens: int, padded: int) -> None:
        self._metrics.observe(telemetry.STAGE_SECONDS, seconds, stage="infer")
        self._metrics.observe(telemetry.BATCH_WINDOWS, len(batch))
        self._metrics.observe(telemetry.BATCH_TOKENS, padded)
        self._metrics.count(telemetry.TOKENS, tokens)
        self._metrics.count(telemetry.PADDED_TOKENS, padded)


def _stand_back() -> None:
    """Lets the event loop, which only needs moments, go first where a worker wants the same core.

    Linux gives every thread a niceness of its own (setpriority(2), "C library/kernel differences").
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)


def _on_loop(batch: list[_Item], then: Callable[[list[_Item], Any], None], result: Any) -> None:
    """Tells the callers of a batch, on their event loop; one that has ended meanwhile has no callers left."""
    with suppress(RuntimeError):
        batch[0].owner.done.get_loop().call_soon_threadsafe(then, batch, result)


def _deliver(batch: list[_Item], outputs: Sequence[Float32]) -> None:
    for item, output in zip(batch, outputs, strict=True):
        item.owner.outputs[item.place] = output
        item.owner.unanswered -= 1
        if not item.owner.unanswered and not item.owner.done.done():
            item.owner.done.set_result(None)


def _fail(batch: list[_Item], error: Exception) -> None:
    for request in {id(item.owner): item.owner for item in batch}.values():
        if not request.done.done():
            request.done.set_exception(error)
