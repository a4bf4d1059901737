"""The HTTP application: FastAPI routes over a predictor, with the middleware before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.bundle import installed_versions
from serving.api import explain_routes, feedback_routes, health_routes, hugging_face, web_page
from serving.api.endpoint import Endpoint
from serving.api.open_inference import http_routes
from serving.api.open_inference.protocol import OpenInference
from serving.api.prediction_service import PredictionService
from serving.api.request_body import REF, PayloadReader
from serving.api.writing import chat_completion
from serving.middleware.http_semantics import HttpSemantics
from serving.middleware.middleware_stack import Duty, MiddlewareStack
from serving.middleware.responses import ErrorBody, reply
from serving.scheduling.predictor import Predictor

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def create_app(
    predictor: Predictor,
    duties: Sequence[Duty] = (),
    *,
    name: str = "",
    scrape: health_routes.Scrape | None = None,
    front: MiddlewareStack | None = None,
) -> FastAPI:
    """The application over one predictor; its `state.predictions` serves a server that calls predictions directly.

    Args:
        predictor: What answers.
        duties: What runs beside the requests.
        name: The agent's; default: that of the bundle's directory.
        scrape: What `/metrics` shows; default: what this process counted.
        front: What stands before the routes; default: nothing that refuses anybody.
    """
    front = front or MiddlewareStack()
    name = name or predictor.engine.bundle.path.name
    task = predictor.engine.bundle.task
    reader = PayloadReader(task, max_texts=predictor.limits.max_texts)
    logging = [predictor.decisions.keep] if predictor.decisions else []
    tensor_reader = http_routes.InferenceReader(task)
    app = FastAPI(
        title="bert-agent",
        version=installed_versions(health_routes.VERSIONS).get("bert-agent", "unknown"),
        description=f"Serves an agent for {task.kind.replace('_', ' ')}.",
        redoc_url=None,
        lifespan=lambda _: _on_duty([*duties, *front.duties, *logging]),
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    model = OpenInference(predictor, name)
    endpoints: list[Endpoint] = [
        *hugging_face.endpoints(predictor, reader, name),
        http_routes.endpoint(model, tensor_reader),
    ]
    chat = chat_completion.ChatEndpoint(predictor, name) if task.streams else None
    app.state.predictions = service = PredictionService(predictor, endpoints, front)
    app.include_router(hugging_face.routes(predictor, reader, name))
    app.include_router(http_routes.routes(model, tensor_reader))
    app.include_router(health_routes.routes(predictor, name, scrape))
    app.include_router(feedback_routes.routes(predictor))
    app.include_router(explain_routes.routes(predictor))
    if chat is not None:
        app.include_router(chat_completion.routes(chat, predictor))
    app.include_router(web_page.routes())
    app.add_exception_handler(HTTPException, _on_http_exception)
    # BelowPrefix is the outermost: all others see the path that the routes see.
    around = front.layers(predictor.metrics, adds_id=not front.behind_ray)
    layers = [Middleware(BelowPrefix, service=service), *around, Middleware(HttpSemantics)]
    for layer in reversed(layers):
        app.add_middleware(layer.cls, *layer.args, **layer.kwargs)
    feedback = [feedback_routes.FeedbackRequest] if predictor.decisions else []
    explained = [explain_routes.reader_of(predictor).model] if explain_routes.explains(predictor) else []
    talks = [chat_completion.ChatRequest] if chat else []
    _complete_schema(app, [reader.model, tensor_reader.model, *feedback, *explained, *talks], front)
    return app


class BelowPrefix:
    """Lets `POST /models/NAME` of an application with that prefix be its `POST /`, and tells predictions of the prefix.

    Starlette redirects it, which not every client follows. Browsers are redirected: the page's addresses are relative.

    Args:
        app: The application.
        service: Told where the application lies as soon as a request shows it.
    """

    def __init__(self, app: ASGIApp, service: PredictionService) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http":
            prefix = scope.get("root_path", "")
            self._service.mount(prefix)
            if scope["method"] == "POST" and scope["path"] == prefix:
                scope["path"] += "/"
        await self._app(scope, receive, send)


@asynccontextmanager
async def _on_duty(duties: Sequence[Duty]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(duty()) for duty in duties]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = _allowed_methods(request)
        body = ErrorBody(
            error=f"method {request.method} is not allowed here", allowed=headers["Allow"], remedy="see /docs"
        )
    elif error.status_code == 404:
        paths = ", ".join(sorted(request.app.openapi()["paths"]))
        body = ErrorBody(error="there is nothing at this path", allowed=paths, remedy="see /docs")
    else:
        body = ErrorBody(error=str(error.detail))
    return reply(body, status=error.status_code, headers=headers)


def _allowed_methods(request: Request) -> str:
    """Methods of every route of this path; Starlette names those of the first one only."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    found = {method for method in _METHODS if any(route.matches(scopes[method])[0] is Match.FULL for route in routes)}
    return ", ".join(method for method in _METHODS if method in found or (method == "HEAD" and "GET" in found))


def _complete_schema(app: FastAPI, models: Sequence[type[BaseModel]], front: MiddlewareStack) -> None:
    """Adds the requests' models to the OpenAPI document: FastAPI does not see bodies that are read by hand."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for model in models:
                schema = model.model_json_schema(ref_template=REF)
                document["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
            front.describe(document)
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]
