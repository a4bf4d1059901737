"""The route that predicts in the shape of Hugging Face's inference API, whatever the task."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from agent import telemetry
from agent.errors import RequestError
from serving.exchange import current
from serving.payload import PayloadReader, Prediction, read_body
from serving.predictor import Predictor, reason_of
from serving.replies import failure, refusal, reply

_log = logging.getLogger(__name__)
_TIMEOUT = "x-request-timeout-seconds"
_BEFORE_RAY = 0.95
REF = "#/components/schemas/{model}"


def routes(predictor: Predictor, reader: PayloadReader) -> APIRouter:
    """The routes over one predictor."""
    router = APIRouter()
    task, limits = predictor.engine.bundle.task, predictor.limits

    async def read(request: Request) -> tuple[Prediction, float | None]:
        try:
            timeout_s = allowed_time(request.headers)
            chunks, headers = request.stream(), request.headers
            body = await read_body(chunks, headers, max_bytes=limits.max_body_bytes, max_s=limits.max_body_s)
            return reader.read(body), timeout_s
        except RequestError as error:
            predictor.metrics.count(telemetry.REJECTED, reason=reason_of(error))
            raise

    @router.post(
        "/",
        summary="Predict one text or several",
        response_model=None,
        responses={200: {"model": reader.answer_model}},
        openapi_extra=_body_schema(reader),
    )
    async def predict(request: Request) -> Response:
        """Answers in the shape of Hugging Face's inference API for the agent's task."""
        try:
            wanted, timeout_s = await read(request)
            answers = await predictor.predict(wanted.texts, wanted.parameters, timeout_s=timeout_s)
            return reply(task.envelope(answers, single=wanted.single))
        except RequestError as error:
            return refusal(error)
        except Exception:  # noqa: BLE001 - the caller gets no internals; the log gets the trace
            _log.exception("the prediction of request %s failed", current().request_id)
            return failure()

    return router


def allowed_time(headers: Mapping[str, str]) -> float | None:
    """Ray Serve's header for the time that a caller allows; Ray itself cuts off a little later, without JSON.

    Raises:
        RequestError: It is no number of seconds.
    """
    given = headers.get(_TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RequestError(
            f"header {_TIMEOUT} is {given[:80]!r}",
            allowed="a number of seconds above 0",
            remedy="leave it out to wait without a limit",
            field=_TIMEOUT,
        )
    return seconds * _BEFORE_RAY


def _body_schema(reader: PayloadReader) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": REF.format(model=reader.model.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}
