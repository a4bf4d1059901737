"""The HTTP surface: FastAPI routes over a predictor. Knows no task by name; every refusal is JSON that says what to do."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent import telemetry
from agent.bundle import installed_versions
from agent.errors import RequestError
from serving.batcher import OverloadError
from serving.metrics import Metrics
from serving.payload import ErrorBody, PayloadReader, Prediction, read_body
from serving.predictor import Predictor, reason_of
from serving.settings import LimitsConfig

_log = logging.getLogger(__name__)
_TIMEOUT = "x-request-timeout-seconds"
_BEFORE_RAY = 0.95
_ROUTES = ("/", "/health", "/ready", "/info", "/metrics", "/docs", "/openapi.json")
_VERSIONS = ("bert-agent", "ray", "onnxruntime-gpu", "onnxruntime", "tokenizers", "fastapi")


class Status(BaseModel):
    """Answer of /health and /ready."""

    status: str


class Info(BaseModel):
    """What is served, and within which limits."""

    agent: str
    bundle: str
    base_model: str
    task: str
    labels: list[str]
    precision: str
    provider: str
    max_tokens: int
    limits: LimitsConfig
    versions: dict[str, str]


Duty = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs beside the requests for as long as the application does."""


def create_app(predictor: Predictor, duties: Sequence[Duty] = ()) -> FastAPI:
    """The application over one predictor."""
    reader = PayloadReader(predictor.engine.bundle.task)
    app = FastAPI(
        title="bert-agent",
        version=installed_versions(_VERSIONS).get("bert-agent", "unknown"),
        description=f"Serves an agent for {predictor.engine.bundle.task.kind.replace('_', ' ')}.",
        redoc_url=None,
        lifespan=lambda _: _on_duty(duties),
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    _add_prediction(app, predictor, reader)
    _add_state(app, predictor)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(_Observed, metrics=predictor.metrics)
    _complete_schema(app, reader)
    return app


@asynccontextmanager
async def _on_duty(duties: Sequence[Duty]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(duty()) for duty in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _add_prediction(app: FastAPI, predictor: Predictor, reader: PayloadReader) -> None:
    task, max_bytes = predictor.engine.bundle.task, predictor.limits.max_body_bytes

    async def read(request: Request) -> tuple[Prediction, float | None]:
        try:
            timeout_s = _timeout(request.headers)
            return reader.read(await read_body(request.stream(), request.headers, max_bytes=max_bytes)), timeout_s
        except RequestError as error:
            predictor.metrics.count(telemetry.REJECTED, reason=reason_of(error))
            raise

    @app.post(
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
            return _json(task.envelope(answers, single=wanted.single))
        except RequestError as error:
            return _refusal(error)
        except Exception:  # noqa: BLE001 - the caller gets no internals; the log gets the trace
            _log.exception("a prediction failed")
            return _json(_failure(), status=500)


def _add_state(app: FastAPI, predictor: Predictor) -> None:
    @app.get("/health", summary="Is the process alive?")
    async def health() -> Status:
        return Status(status="alive")

    @app.get("/ready", summary="Is the agent loaded and warm?", responses={503: {"model": ErrorBody}})
    async def ready() -> Response:
        if predictor.ready:
            return _json(Status(status="ready"))
        body = ErrorBody(error="the agent is warming up", remedy="ask again in a second")
        return _json(body, status=503, headers={"retry-after": "1"})

    @app.get("/info", summary="Which agent is this?")
    async def describe() -> Info:
        return _info(predictor)

    @app.get("/metrics", summary="Metrics of this replica for Prometheus", response_model=None)
    async def metrics() -> Response:
        return Response(predictor.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _timeout(headers: Mapping[str, str]) -> float | None:
    """Ray Serve's header for the time that a caller allows; Ray itself cuts off a little later, without JSON."""
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


def _refusal(error: RequestError) -> Response:
    body = ErrorBody(
        error=error.what, field=error.field or None, allowed=error.allowed or None, remedy=error.remedy or None
    )
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, OverloadError) else None
    return _json(body, status=error.status, headers=headers)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        body = ErrorBody(
            error=f"method {request.method} is not allowed here", allowed=headers.get("Allow"), remedy="see /docs"
        )
    elif error.status_code == 404:
        body = ErrorBody(error="there is nothing at this path", allowed=", ".join(_ROUTES), remedy="see /docs")
    else:
        body = ErrorBody(error=str(error.detail))
    return _json(body, status=error.status_code, headers=headers)


def _failure() -> ErrorBody:
    return ErrorBody(error="the server failed; this is not the request's fault", remedy="try again; tell its operator")


def _json(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers=headers, media_type="application/json")


def _info(predictor: Predictor) -> Info:
    engine, manifest = predictor.engine, predictor.engine.bundle.manifest
    return Info(
        agent=engine.bundle.path.name,
        bundle=engine.bundle.digest,
        base_model=manifest.lineage.base_model,
        task=engine.bundle.task.kind,
        labels=list(engine.bundle.task.labels),
        precision=engine.variant.precision,
        provider=engine.provider,
        max_tokens=manifest.max_tokens,
        limits=predictor.limits,
        versions=installed_versions(_VERSIONS),
    )


_REF = "#/components/schemas/{model}"


def _body_schema(reader: PayloadReader) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=reader.model.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def _complete_schema(app: FastAPI, reader: PayloadReader) -> None:
    """Adds the request's model to the OpenAPI document: FastAPI does not see bodies that are read by hand."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            model = reader.model.model_json_schema(ref_template=_REF)
            document["components"]["schemas"] |= model.pop("$defs", {}) | {reader.model.__name__: model}
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]


class _Observed:
    """Counts every answer by route and status; turns what escapes the routes into JSON without internals."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Without the prefix at which Ray Serve mounts the application.
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        route = path if path in _ROUTES else "other"
        started = False

        async def observe(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.count(telemetry.REQUESTS, route=route, status=str(message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception:
            if started:
                raise
            _log.exception("a request failed")
            await _json(_failure(), status=500)(scope, receive, observe)
