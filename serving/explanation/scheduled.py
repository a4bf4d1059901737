"""Computes explanations through the queue of a replica, beside its predictions: some texts at a time, so that these never wait long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from agent.encoding import Document, Float32
from agent.errors import RequestError
from serving.explanation.explainer import Computation, Steps
from serving.explanation.explanation_models import Explanation
from serving.inference.engine import Engine
from serving.inference.passes import SecondPass, WindowWork
from serving.scheduling.model_version import ModelVersion
from serving.scheduling.prediction import INLINE_CHARACTERS
from serving.scheduling.refusals import CALLER_LEFT, OverloadError

_TEXTS_AT_ONCE = 32
_TOKENS_AT_ONCE = 4_096  # in the queue, unless one text has more
_PATIENCE_S = 30.0  # for which an explanation that has begun waits for room in the queue

Result = TypeVar("Result")
IsGone = Callable[[], Awaitable[bool]]
"""Whether the caller has hung up."""


class ScheduledExplanation:
    """One explanation on its way through a version of the agent.

    Args:
        version: What computes.
        parameters: Of the request.
        num_characters: Of the text.
        is_gone: Asked between batches.
    """

    def __init__(self, version: ModelVersion, parameters: Any, num_characters: int, is_gone: IsGone) -> None:
        self._version, self._parameters, self._is_gone = version, parameters, is_gone
        self._num_characters = num_characters
        self.num_computed = 0

    async def finish(self, steps: Steps) -> Explanation:
        """Computes what the steps ask for until they have the explanation.

        Raises:
            RequestError: The text cannot be explained, the server has too much to do, or the caller hung up.
        """
        wanted = next(steps)
        while True:
            said = await self._compute(wanted)
            try:
                wanted = steps.send(said)
            except StopIteration as end:
                found: Explanation = end.value
                return found

    async def _compute(self, wanted: Computation) -> list[Any]:
        said = list[Any]()
        for first in range(0, wanted.num_texts, _TEXTS_AT_ONCE):
            if await self._is_gone():
                raise RequestError("the caller hung up before the explanation was there", status=CALLER_LEFT)
            numbers = range(first, min(first + _TEXTS_AT_ONCE, wanted.num_texts))
            documents = await self._aside(self._encode, wanted, numbers)
            outputs = [one for part in _parts(documents) for one in await self._run(part)]
            said += await self._aside(_judge, wanted, numbers, documents, outputs)
            self.num_computed += len(numbers)
        return said

    def _encode(self, wanted: Computation, numbers: range) -> list[Document]:
        return list(self._version.engine.encode([wanted.text(number) for number in numbers], self._parameters))

    async def _aside(
        self, work: Callable[..., list[Result]], wanted: Computation, numbers: range, *rest: Any
    ) -> list[Result]:
        """Does what would hold the event loop for long in a thread."""
        if self._num_characters * len(numbers) <= INLINE_CHARACTERS:
            return work(wanted, numbers, *rest)
        return await asyncio.to_thread(work, wanted, numbers, *rest)

    async def _run(self, documents: Sequence[Document]) -> list[list[Float32]]:
        """The logits of the windows of each document, of the second pass where the first is not sure of it."""
        engine = self._version.engine
        assert isinstance(engine, Engine)
        found = await self._queued([list(document.windows) for document in documents])
        said = zip(documents, found, strict=True)
        left = [number for number, one in enumerate(said) if not engine.is_sure(*one)]
        if left:
            rest = await self._queued([list(map(SecondPass, documents[number].windows)) for number in left])
            for number, outputs in zip(left, rest, strict=True):
                found[number] = outputs
        return found

    async def _queued(self, works: Sequence[Sequence[WindowWork]]) -> list[list[Float32]]:
        """The logits of the windows of each document, of one pass."""
        batcher, give_up = self._version.batcher, time.monotonic() + _PATIENCE_S
        windows = [window for document in works for window in document]
        while True:
            waiting = _Waiting(len(windows))
            try:
                submission = batcher.submit(windows, waiting)
            except OverloadError as error:
                if not self.num_computed or time.monotonic() + error.retry_after_s > give_up:
                    raise
                await asyncio.sleep(error.retry_after_s)
                continue
            try:
                outputs = await waiting.outputs
            except BaseException:
                batcher.withdraw(submission)
                raise
            rest = iter(outputs)
            return [[next(rest) for _ in document] for document in works]


def _judge(
    wanted: Computation, numbers: range, documents: Sequence[Document], outputs: Sequence[Sequence[Float32]]
) -> list[Any]:
    return [wanted.judge(*one) for one in zip(numbers, documents, outputs, strict=True)]


class _Waiting:
    """Waits for the logits of some windows; the batcher's `Caller`."""

    def __init__(self, num_windows: int) -> None:
        self.outputs: asyncio.Future[list[Float32]] = asyncio.get_running_loop().create_future()
        self._found: dict[int, Float32] = {}
        self._num_windows = num_windows

    def deliver(self, place: int, output: Float32) -> None:
        """Takes the logits of one window."""
        self._found[place] = output
        if len(self._found) == self._num_windows and not self.outputs.done():
            self.outputs.set_result([self._found[number] for number in range(self._num_windows)])

    def fail(self, error: Exception) -> None:
        """A batch with one of the windows failed."""
        if not self.outputs.done():
            self.outputs.set_exception(error)


def _parts(documents: Sequence[Document]) -> list[list[Document]]:
    """Neighbouring documents that queue together."""
    parts, tokens = list[list[Document]](), 0
    for document in documents:
        if not parts or tokens + document.num_tokens > _TOKENS_AT_ONCE:
            parts.append([])
            tokens = 0
        parts[-1].append(document)
        tokens += document.num_tokens
    return parts
