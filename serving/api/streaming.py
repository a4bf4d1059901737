"""Many texts in one request, answered line by line (application/x-ndjson): in order, each group as soon as it is there.

Once the first group is answered a few are asked for ahead of the reader, so a slow reader holds back the work and not the
memory, and a stream takes its turns among other callers. The request itself is read whole, within a limit of its own: Ray Serve would
read ahead of us whatever is sent.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from itertools import islice
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic_core import from_json, to_json
from starlette.types import Receive, Scope, Send

from agent.errors import RequestError
from agent.tasks import Parameters
from serving.api.request_body import JSON, PayloadReader, content_type, read_body
from serving.middleware.responses import failed, refused, retry_after_s
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.prediction import Answers
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import DeadlineError, OverloadError
from serving.scheduling.request_context import current

_log = logging.getLogger(__name__)
NDJSON = "application/x-ndjson"
_GROUP_TEXTS = 32
_GROUP_CHARACTERS = 8_000
_GROUPS_AHEAD = 4
_PATIENCE_S = 30  # for how long a stream that has begun waits its turn on a busy server


class _Group(NamedTuple):
    """Texts that are answered together; `first` is the index of the first one in the stream."""

    first: int
    texts: list[str]
    parameters: Parameters


class Streams:
    """Answers streams; as many at once as the limits allow.

    Args:
        predictor: What answers.
        reader: Reads bodies and lines.
    """

    def __init__(self, predictor: Predictor, reader: PayloadReader) -> None:
        self._predictor, self._reader, self._limits = predictor, reader, predictor.limits
        self._open = 0

    async def answer(self, request: Request, timeout_s: float | None) -> StreamingResponse:
        """Begins an answer once its first lines are there, so that a stream that cannot begin is refused like any request.

        Raises:
            RequestError: The request is wrong, or the server has too much to do.
        """
        if self._open >= self._limits.max_streams:
            raise OverloadError(
                "the server is busy: too many streams", retry_after_s=self._predictor.batcher.retry_after_s()
            )
        self._open += 1
        try:
            answers = self._answers(_grouped(await self._read(request), self._limits), timeout_s)
            first = await anext(answers)
        except BaseException:
            self._close()
            raise
        return _Stream(_lines(first, answers), self._close)

    def _close(self) -> None:
        self._open -= 1

    async def _read(self, request: Request) -> Iterator[tuple[str, Parameters]]:
        """The texts with their parameters, read one after the other."""
        kind = content_type(request.headers, (JSON, NDJSON))
        limit = self._limits.max_body_bytes if kind == JSON else self._limits.max_stream_bytes
        most_s = self._limits.max_body_s
        body = await read_body(request.stream(), request.headers, max_bytes=limit, max_s=most_s, types=(JSON, NDJSON))
        if kind == NDJSON:
            return self._read_lines(body)
        wanted = self._reader.read(body)
        return ((text, wanted.parameters) for text in wanted.texts)

    def _read_lines(self, body: bytes) -> Iterator[tuple[str, Parameters]]:
        empty = True
        for number, line in enumerate(io.BytesIO(body), 1):
            if line.strip():
                empty = False
                yield self._read_line(line, number)
        if empty:
            raise RequestError(
                "the body holds no line", allowed='lines such as "a text" or {"inputs": "a text"}', remedy="send a text"
            )

    def _read_line(self, line: bytes, number: int) -> tuple[str, Parameters]:
        try:
            wanted = self._reader.read(_as_object(line))
        except RequestError as error:
            raise RequestError(
                f"line {number}: {error.what}",
                allowed=error.allowed,
                remedy=error.remedy,
                status=error.status,
                field=f"line {number}",
            ) from None
        characters = len(wanted.texts[0])
        if not wanted.single or characters > self._limits.max_characters:
            raise RequestError(
                f"line {number} holds {f'{characters} characters' if wanted.single else 'a list'}",
                allowed=f"one text of at most {self._limits.max_characters} characters in a line",
                remedy="give every text a line of its own, and cut what is longer",
                status=413 if wanted.single else 422,
                field=f"line {number}",
            )
        return wanted.texts[0], wanted.parameters

    async def _answers(
        self, groups: Iterator[_Group | RequestError], timeout_s: float | None
    ) -> AsyncIterator[Answers]:
        pending: deque[asyncio.Task[Answers]] = deque()
        started = time.monotonic()
        begun = False
        try:
            while True:
                ahead = _GROUPS_AHEAD if begun else 1  # until then a later group must not take the room of the first
                for group in islice(groups, ahead - len(pending)):
                    pending.append(asyncio.create_task(self._ask(group, started, timeout_s, patient=begun)))
                if not pending:
                    return
                yield await pending.popleft()
                begun = True
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _ask(
        self, group: _Group | RequestError, started: float, timeout_s: float | None, *, patient: bool
    ) -> Answers:
        if isinstance(group, RequestError):
            raise group
        give_up, context = time.monotonic() + _PATIENCE_S, current().part(group.first)
        while True:
            left = None if timeout_s is None else started + timeout_s - time.monotonic()
            try:
                return await self._predictor.predict(group.texts, group.parameters, context=context, timeout_s=left)
            except DeadlineError:
                assert timeout_s is not None
                raise DeadlineError(timeout_s) from None
            except RequestError as error:
                seconds = retry_after_s(error)
                if seconds is None or not patient or time.monotonic() + seconds > give_up:
                    raise
                await asyncio.sleep(seconds)


class _Stream(StreamingResponse):
    """A response that tells when it is over, however it ends."""

    def __init__(self, content: AsyncIterator[bytes], close: Any) -> None:
        super().__init__(content, media_type=NDJSON)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _lines(first: Answers, answers: Any) -> AsyncIterator[bytes]:
    """A line for each answer; what goes wrong on the way is the last line, an object in place of a list."""
    async with aclosing(answers):
        yield _written(first)
        try:
            async for group in answers:
                yield _written(group)
        except RequestError as error:
            yield to_json(refused(error)) + b"\n"
        except Exception:  # noqa: BLE001 - the caller gets no internals; the log gets the trace
            _log.exception("the stream of request %s failed", current().request_id)
            yield to_json(failed()) + b"\n"


def wanted(accept: str, given: str) -> bool:
    """Whether the headers `accept` and `content-type` ask for a stream."""
    return any(NDJSON in value.lower() for value in (accept, given))


def _written(answers: Answers) -> bytes:
    return b"".join(to_json(answer) + b"\n" for answer in answers)


def _as_object(line: bytes) -> bytes:
    """A bare string is a text."""
    if not line.lstrip().startswith(b'"'):
        return line
    try:
        return to_json({"inputs": from_json(line)})
    except ValueError:
        return line  # the reader says what is wrong with it


def _grouped(items: Iterator[tuple[str, Parameters]], limits: LimitsConfig) -> Iterator[_Group | RequestError]:
    """Neighbours with the same parameters; the first mistake comes in its place, and last."""
    max_texts = min(_GROUP_TEXTS, limits.max_texts)
    max_characters = min(_GROUP_CHARACTERS, limits.max_characters)
    group: _Group | None = None
    try:
        for number, (text, parameters) in enumerate(items):
            if group is not None and (
                len(group.texts) == max_texts
                or sum(map(len, group.texts)) + len(text) > max_characters
                or parameters != group.parameters
            ):
                yield group
                group = None
            group = group or _Group(number, [], parameters)
            group.texts.append(text)
    except RequestError as error:
        yield from [group] if group else []
        yield error
        return
    yield from [group] if group else []
