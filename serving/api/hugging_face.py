"""The routes that predict in the shape of Hugging Face's inference API, whatever the task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from agent.errors import RequestError
from serving.api import streaming
from serving.api.open_inference.protocol import check_name
from serving.api.request_body import BYTES, TIMEOUT, PayloadReader, body_schema, read_body, refusals_counted
from serving.api.responses import answered, reply
from serving.api.streaming import NDJSON, Streams
from serving.scheduling.predictor import Predictor

_BEFORE_RAY = 0.95


def routes(predictor: Predictor, reader: PayloadReader, name: str) -> APIRouter:
    """The routes over one predictor, whose agent has a name."""
    router = APIRouter()
    task, limits = predictor.engine.bundle.task, predictor.limits
    described: dict[str, Any] = {
        "response_model": None,
        "responses": {200: {"model": reader.answer_model, "content": {NDJSON: BYTES}}},
        "openapi_extra": body_schema(reader.model, NDJSON),
    }
    streams = Streams(predictor, reader)

    @router.post("/", summary="Predict one text or several", **described)
    async def predict(request: Request) -> Response:
        """Answers in the shape of Hugging Face's inference API for the agent's task; `Accept: application/x-ndjson` streams."""
        return await answered(answer(request))

    @router.post("/models/{name}", summary="Predict with the agent of that name", **described)
    async def predict_by_name(request: Request, name: str) -> Response:
        """The same, for callers who say which agent they mean."""
        return await answered(answer(request, name))

    async def answer(request: Request, asked: str = name) -> Response:
        with refusals_counted(predictor.metrics):
            predictor.check_room()
            check_name(asked, name)
            headers = headers_of(request)
            timeout_s = allowed_time(headers)
            if streaming.wanted(headers.get("accept", ""), headers.get("content-type", "")):
                return await streams.answer(request, timeout_s)
            body = await read_body(request.stream(), headers, max_bytes=limits.max_body_bytes, max_s=limits.max_body_s)
            wanted = reader.read(body)
        answers = await predictor.predict(wanted.texts, wanted.parameters, timeout_s=timeout_s)
        return reply(task.envelope(answers, single=wanted.single))

    return router


def plain(router: APIRouter) -> APIRoute:
    """The route without a name in its path, which most callers take."""
    return next(route for route in router.routes if isinstance(route, APIRoute) and route.path == "/")


def headers_of(request: Request) -> dict[str, str]:
    """The headers, read once; of one that is there several times the first, as starlette's own mapping says, which searches."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(request.scope["headers"])}


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
