"""From texts to answers on an event loop: tokenise, queue, compute, decode. Knows nothing of HTTP.

The loop itself does only what takes microseconds: anything that grows with the request runs in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from agent import telemetry
from agent.encoding import Document, Float32
from agent.errors import RequestError
from agent.tasks import Parameters
from serving.batcher import Bounds, OverloadError, TokenBatcher
from serving.engine import Engine
from serving.metrics import Metrics
from serving.settings import LimitsConfig

T = TypeVar("T")
Answers = list[list[dict[str, Any]]]

# Below it, tokenising or decoding (some 20 microseconds per 100 characters) costs less than changing threads.
_INLINE_CHARACTERS = 500


class Predictor:
    """Answers many callers with one engine.

    Args:
        engine: What computes.
        limits: What is admitted.
        metrics: Where everything is observed.
    """

    def __init__(self, engine: Engine, limits: LimitsConfig | None = None, metrics: Metrics | None = None) -> None:
        self.engine, self.limits, self.metrics = engine, limits or LimitsConfig(), metrics or Metrics()
        self.batcher = TokenBatcher(
            engine.forward_windows,
            Bounds(
                num_workers=engine.num_sessions,
                max_batch_tokens=engine.config.max_batch_tokens,
                max_wait_s=engine.config.max_wait_s,
                max_queued_tokens=self.limits.max_queued_tokens,
            ),
            self.metrics,
        )
        self.ready = False
        self._in_flight = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="text")
        bundle = engine.bundle
        self.metrics.set(
            telemetry.INFO, 1, bundle=bundle.digest[:12], task=bundle.task.kind, precision=engine.variant.precision
        )

    def warm_up(self) -> None:
        """Prepares the engine, then declares this predictor ready."""
        started = time.monotonic()
        if self.engine.config.warmup:
            self.engine.warm_up()
            self.engine.predict(["warm"])
        self.metrics.set(telemetry.WARMUP_SECONDS, time.monotonic() - started)
        self.ready = True

    async def predict(self, texts: Sequence[str], parameters: Parameters) -> Answers:
        """Answers the texts of one request.

        Raises:
            RequestError: A text cannot be answered, or (429) the server has too much to do.
        """
        started = time.monotonic()
        try:
            answers = await self._admitted(texts, parameters)
        except BaseException as error:
            self.metrics.count(telemetry.REJECTED, reason=reason_of(error))
            raise
        self.metrics.count(telemetry.TEXTS, len(texts))
        self._count_items(answers)
        self.metrics.observe(telemetry.REQUEST_SECONDS, time.monotonic() - started)
        return answers

    def close(self) -> None:
        """Ends the threads."""
        self.batcher.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _admitted(self, texts: Sequence[str], parameters: Parameters) -> Answers:
        self._check_limits(texts)
        if self._in_flight >= self.limits.max_concurrent_requests:
            raise OverloadError(
                "the server is busy: too many requests in flight", retry_after_s=self.batcher.retry_after_s()
            )
        self._in_flight += 1
        try:
            return await self._answer(texts, parameters)
        finally:
            self._in_flight -= 1

    async def _answer(self, texts: Sequence[str], parameters: Parameters) -> Answers:
        small = sum(map(len, texts)) <= _INLINE_CHARACTERS
        documents = await self._stage("tokenize", small, lambda: self.engine.encode(texts))
        windows = [window for document in documents for window in document.windows]
        logits = await self.batcher.run(windows)
        outputs = _by_document(documents, logits)
        return await self._stage("decode", small, lambda: self.engine.answer(texts, documents, outputs, parameters))

    async def _stage(self, stage: str, small: bool, work: Callable[[], T]) -> T:
        started = time.monotonic()
        result = work() if small else await asyncio.get_running_loop().run_in_executor(self._threads, work)
        self.metrics.observe(telemetry.STAGE_SECONDS, time.monotonic() - started, stage=stage)
        return result

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
        for label, count in Counter(
            label for answer in answers for label in self.engine.bundle.task.counted(answer)
        ).items():
            self.metrics.count(telemetry.ENTITIES, count, label=label)


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
    if isinstance(error, RequestError):
        return "too_large" if error.status == 413 else "invalid"
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
