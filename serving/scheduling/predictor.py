"""From texts to answers on an event loop: tokenise, queue, compute, decode. Knows nothing of HTTP.

The loop itself does only what takes microseconds: anything that grows with the request runs in a thread. A second
version of the agent can stand beside the first: as a candidate it answers a part of the requests, then it takes over,
or it is sent away; requests that it fails are answered by the first (serving/ray_serve/rollout.py decides).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from agent import telemetry
from agent.encoding import Document, Float32
from agent.errors import RequestError
from agent.tasks import Parameters
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.middleware.rate_limit import RateLimitError
from serving.middleware.request_context import CALLER_LEFT, current
from serving.scheduling.batcher import Bounds, OverloadError, TokenBatcher
from serving.settings import LimitsConfig

_log = logging.getLogger(__name__)
T = TypeVar("T")
Answers = list[list[dict[str, Any]]]

# Below it, tokenising or decoding (some 20 microseconds per 100 characters) costs less than changing threads.
_INLINE_CHARACTERS = 500
_CHARACTERS_PER_TOKEN = 6  # a guess on the high side: nothing is refused for it that need not be
_LAG_PERIOD_S = 0.1
_REASONS = {401: "unauthorized", 403: "forbidden", 408: "timeout", 413: "too_large", CALLER_LEFT: "cancelled"}
_LONGEST_SAMPLE = 2_000  # characters; a sample is there to be compared quickly


class DeadlineError(RequestError):
    """The caller's time was up before the answer was there; what still waited was not computed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no answer within the {seconds:g} s that the request allowed",
            remedy="allow more time, send fewer texts in one request, or try when the server has less to do",
            status=408,
        )


class ModelVersion:
    """One version of the agent with a queue of its own.

    Args:
        engine: What computes; warm.
        limits: How much may wait.
        metrics: Where batches are observed.
    """

    def __init__(self, engine: Engine, limits: LimitsConfig, metrics: Metrics) -> None:
        self.engine = engine
        self.batcher = TokenBatcher(
            engine.forward_windows,
            Bounds(
                num_workers=engine.plan.sessions,
                max_batch_tokens=engine.config.max_batch_tokens,
                max_wait_s=engine.config.max_wait_s,
                max_queued_tokens=limits.max_queued_tokens,
                max_queued_s=limits.max_queued_s,
            ),
            metrics,
        )
        self.in_flight = 0
        self._left = asyncio.Event()

    async def drain(self) -> None:
        """Waits until nobody waits for an answer of this version, then ends its threads."""
        while self.in_flight:
            self._left.clear()
            await self._left.wait()
        self.batcher.close()

    def enter(self) -> None:
        """A request begins."""
        self.in_flight += 1

    def leave(self) -> None:
        """A request ends."""
        self.in_flight -= 1
        self._left.set()


class Predictor:
    """Answers many callers with one engine.

    Args:
        engine: What computes.
        limits: What is admitted.
        metrics: Where everything is observed.
        num_samples: How many of the latest texts are kept in memory, for a new version to be compared on.
    """

    def __init__(
        self,
        engine: Engine,
        limits: LimitsConfig | None = None,
        metrics: Metrics | None = None,
        *,
        num_samples: int = 0,
    ) -> None:
        self.limits, self.metrics = limits or LimitsConfig(), metrics or Metrics()
        self._live = ModelVersion(engine, self.limits, self.metrics)
        self._candidate: ModelVersion | None = None
        self._share, self._turns = 0.0, 0
        self.candidate_failures = 0
        self.samples: deque[str] = deque(maxlen=num_samples)
        self.ready = False
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="text")
        self._announce(engine, 1)
        self.metrics.follow(telemetry.QUEUED_TOKENS, lambda: sum(queue.queued_tokens for queue in self._queues()))
        self.metrics.follow(telemetry.QUEUED_WINDOWS, lambda: sum(queue.queued_windows for queue in self._queues()))

    @property
    def engine(self) -> Engine:
        """What computes, not counting a candidate."""
        return self._live.engine

    @property
    def batcher(self) -> TokenBatcher:
        """The queue, not counting a candidate's."""
        return self._live.batcher

    def warm_up(self) -> None:
        """Prepares the engine, then declares this predictor ready."""
        started = time.monotonic()
        self.engine.prepare()
        self.metrics.set(telemetry.WARMUP_SECONDS, time.monotonic() - started)
        self.ready = True

    async def predict(self, texts: Sequence[str], parameters: Parameters, *, timeout_s: float | None = None) -> Answers:
        """Answers the texts of one request.

        Args:
            texts: At least one.
            parameters: How to answer.
            timeout_s: Seconds until the caller no longer wants the answer.

        Raises:
            RequestError: A text cannot be answered, (429) the server has too much to do, or (408) the time is up.
        """
        started = time.monotonic()
        try:
            answers = await self._in_time(texts, parameters, timeout_s)
        except BaseException as error:
            if isinstance(error, OverloadError):
                current().give_back(texts)
            self.metrics.count(telemetry.REJECTED, reason=reason_of(error))
            raise
        self.metrics.count(telemetry.TEXTS, len(texts))
        self._count_items(answers)
        self.metrics.observe(telemetry.REQUEST_SECONDS, time.monotonic() - started)
        self.samples.extend(text for text in texts[: self.samples.maxlen] if len(text) <= _LONGEST_SAMPLE)
        return answers

    def check_room(self) -> None:
        """Refuses at once what `predict` would refuse now, before its body is read.

        Raises:
            OverloadError: As many requests are answered as may be.
        """
        self._check_room_of(self._live)

    @asynccontextmanager
    async def candidate(self, engine: Engine, share: float) -> AsyncIterator[Callable[[], None]]:
        """Lets a second version answer a part of the requests inside the block; it leaves afterwards.

        Args:
            engine: The version; warm.
            share: Its part of the requests, 0 to 1.

        Yields:
            What makes the candidate take over; the version before it then answers what it began, and leaves.
        """
        candidate = ModelVersion(engine, self.limits, self.metrics)
        self._candidate, self._share, self._turns, self.candidate_failures = candidate, share, 0, 0
        leaving = candidate

        def promote() -> None:
            nonlocal leaving
            leaving, self._live, self._candidate = self._live, candidate, None
            self._announce(leaving.engine, 0)
            self._announce(engine, 1)

        try:
            yield promote
        finally:
            self._candidate = None
            await leaving.drain()

    async def watch_loop(self) -> None:
        """Observes, for as long as it runs, how late the event loop is."""
        while True:
            due = time.monotonic() + _LAG_PERIOD_S
            await asyncio.sleep(_LAG_PERIOD_S)
            self.metrics.observe(telemetry.LOOP_LAG_SECONDS, max(0.0, time.monotonic() - due))

    def load(self) -> dict[str, float]:
        """What autoscaling looks at, since the last call: `load` (0 to 1) and `queued_s`, seconds of waiting work."""
        load = self.batcher.take_load()
        self.metrics.set(telemetry.BUSY_RATIO, load)
        return {"load": load, "queued_s": self.batcher.queued_s}

    def close(self) -> None:
        """Ends the threads."""
        self.batcher.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _in_time(self, texts: Sequence[str], parameters: Parameters, timeout_s: float | None) -> Answers:
        if timeout_s is None:
            return await self._admitted(texts, parameters)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._admitted(texts, parameters)
        except TimeoutError:
            raise DeadlineError(timeout_s) from None

    async def _admitted(self, texts: Sequence[str], parameters: Parameters) -> Answers:
        self._check_limits(texts)
        current().charge(texts)
        candidate = self._candidate if self._takes_turn() else None
        if candidate is not None:
            try:
                return await self._served_by(candidate, texts, parameters)
            except RequestError:
                raise
            except Exception:  # noqa: BLE001 - whatever the new version does, the caller gets an answer
                self.candidate_failures += 1
                _log.exception("the new version of the bundle failed; the request goes to the one before")
        return await self._served_by(self._live, texts, parameters)

    def _queues(self) -> list[TokenBatcher]:
        return [served.batcher for served in (self._live, self._candidate) if served]

    def _takes_turn(self) -> bool:
        """Every n-th request, spread evenly, goes to the candidate."""
        if self._candidate is None:
            return False
        self._turns += 1
        return int(self._turns * self._share) > int((self._turns - 1) * self._share)

    async def _served_by(self, served: ModelVersion, texts: Sequence[str], parameters: Parameters) -> Answers:
        self._check_room_of(served)
        served.batcher.check_wait(max(map(len, texts), default=0) // _CHARACTERS_PER_TOKEN)
        served.enter()
        try:
            return await self._answer(served, texts, parameters)
        finally:
            served.leave()

    async def _answer(self, served: ModelVersion, texts: Sequence[str], parameters: Parameters) -> Answers:
        engine, small = served.engine, sum(map(len, texts)) <= _INLINE_CHARACTERS
        documents = await self._stage("tokenize", small, lambda: engine.encode(texts, parameters.stride))
        windows = [window for document in documents for window in document.windows]
        started = time.monotonic()
        logits = await served.batcher.run(windows)
        current().stages.append(("queue and infer", started, time.monotonic()))
        outputs = _by_document(documents, logits)
        return await self._stage("decode", small, lambda: engine.answer(texts, documents, outputs, parameters))

    async def _stage(self, stage: str, small: bool, work: Callable[[], T]) -> T:
        started = time.monotonic()
        result = work() if small else await asyncio.get_running_loop().run_in_executor(self._threads, work)
        ended = time.monotonic()
        self.metrics.observe(telemetry.STAGE_SECONDS, ended - started, stage=stage)
        current().stages.append((stage, started, ended))
        return result

    def _check_room_of(self, served: ModelVersion) -> None:
        if served.in_flight >= self.limits.max_concurrent_requests:
            raise OverloadError(
                "the server is busy: too many requests in flight", retry_after_s=served.batcher.retry_after_s()
            )

    def _check_limits(self, texts: Sequence[str]) -> None:
        characters = sum(map(len, texts))
        for what, given, allowed in (
            ("texts", len(texts), self.limits.max_texts),
            ("characters", characters, self.limits.max_characters),
        ):
            if given > allowed:
                raise RequestError(
                    f"inputs holds {given} {what}",
                    allowed=f"at most {allowed} {what} in one request",
                    remedy="send the texts in several requests",
                    status=413,
                    field="inputs",
                )

    def _count_items(self, answers: Answers) -> None:
        for answer in answers:
            for label, score in self.engine.bundle.task.counted(answer):
                self.metrics.count(telemetry.ENTITIES, label=label)
                self.metrics.observe(telemetry.SCORES, score, label=label)

    def _announce(self, engine: Engine, value: float) -> None:
        bundle = engine.bundle
        self.metrics.set(
            telemetry.INFO, value, bundle=bundle.digest[:12], task=bundle.task.kind, precision=engine.variant.precision
        )


def _by_document(documents: Sequence[Document], logits: Sequence[Float32]) -> list[Sequence[Float32]]:
    outputs, start = [], 0
    for document in documents:
        end = start + len(document.windows)
        outputs.append(logits[start:end])
        start = end
    return outputs


def reason_of(error: BaseException) -> str:
    """The label under which a request that got no answer is counted."""
    if isinstance(error, OverloadError):
        return "overload"
    if isinstance(error, RateLimitError):
        return "rate_limited"
    if isinstance(error, RequestError):
        return _REASONS.get(error.status, "invalid")
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
