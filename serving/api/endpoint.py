"""What an endpoint that predicts has to say: how its requests are read and its answers written; the head is checked for all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fastapi import Request, Response

from agent.errors import RequestError
from agent.tasks import Parameters
from serving.api.request_body import JSON, TIMEOUT, check_length, content_type, read_body, refusals_counted
from serving.api.writing.event_stream import Events, told
from serving.middleware.request_headers import headers_of
from serving.scheduling.prediction import Answers
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import CALLER_LEFT

_BEFORE_RAY = 0.95


class Written(NamedTuple):
    """An answer as bytes."""

    body: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = {}


class Asked(NamedTuple):
    """A request that was read, and how its answers are written, or told while they are (`events`)."""

    texts: list[str]
    parameters: Parameters
    write: Callable[[Answers], Written]
    events: Events | None = None


class Endpoint(Protocol):
    """An endpoint that predicts.

    Attributes:
        route: Its path as declared, by which answers are counted.
        paths: The paths at which it is found.
        streams: Whether its requests may ask for events.
    """

    route: str
    paths: Sequence[str]
    streams: bool

    def types(self, headers: Mapping[str, str]) -> Sequence[str]:
        """Content types that it reads, given the other headers."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> Asked:
        """Reads a request.

        Raises:
            RequestError: It is wrong.
        """


def check_head(predictor: Predictor, headers: Mapping[str, str], types: Sequence[str]) -> float | None:
    """Checks a request before its body is read.

    Returns:
        Seconds until the caller no longer wants an answer, None without a limit.

    Raises:
        RequestError: There is no room for it (429), or a header is wrong.
    """
    predictor.check_room()
    timeout_s = allowed_time(headers)
    content_type(headers, types)
    check_length(headers, predictor.limits.max_body_bytes)
    return timeout_s


def check_name(name: str, served: str) -> None:
    """Refuses agents that this application does not serve.

    Raises:
        RequestError: 404.
    """
    if name != served:
        raise RequestError(
            f"there is no agent {name[:80]!r} here", allowed=served, remedy="see /info", status=404, field="name"
        )


def allowed_time(headers: Mapping[str, str]) -> float | None:
    """Ray Serve's header for the time that a caller allows; Ray itself cuts off a little later, without JSON.

    Raises:
        RequestError: It is no number of seconds.
    """
    given = headers.get(TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RequestError(
            f"header {TIMEOUT} is {given[:80]!r}",
            allowed="a number of seconds above 0",
            remedy="leave it out to wait without a limit",
            field=TIMEOUT,
        )
    return seconds * _BEFORE_RAY


async def answer_request(
    request: Request, endpoint: Endpoint, predictor: Predictor, *, check: Any = lambda: None
) -> Response:
    """Answers a request to an endpoint that came by way of the application.

    Args:
        request: The request.
        endpoint: Where it was asked.
        predictor: What answers.
        check: Refuses a wrong path, before the body is read.

    Raises:
        RequestError: It is refused.
    """
    headers = headers_of(request.scope["headers"])
    limits, types = predictor.limits, endpoint.types(headers)
    with refusals_counted(predictor.metrics):
        check()
        timeout_s = check_head(predictor, headers, types)
        stream = request.stream()
        body = await read_body(stream, headers, max_bytes=limits.max_body_bytes, max_s=limits.max_body_s, types=types)
        asked = endpoint.read(body, headers)
    if asked.events is not None:
        (text,) = asked.texts
        return await told(predictor, text, asked.parameters, asked.events, timeout_s)
    answering = predictor.predict(asked.texts, asked.parameters, timeout_s=timeout_s)
    answers = await (_unless_gone(request, answering) if endpoint.streams else answering)
    written = asked.write(answers)
    return Response(written.body, media_type=written.media_type, headers=dict(written.headers))


async def _unless_gone(request: Request, answering: Coroutine[Any, Any, Answers]) -> Answers:
    """The answers, as long as the caller is there: what takes seconds to write is given up when he hangs up.

    Raises:
        RequestError: 499, he did; or as `Predictor.predict`.
    """
    writing, left = asyncio.create_task(answering), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({writing, left}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            writing.cancel()
            await asyncio.wait({writing})
            raise RequestError("the caller hung up before the answer was there", status=CALLER_LEFT)
        return writing.result()
    finally:
        writing.cancel()
        left.cancel()
