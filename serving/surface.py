"""Puts the HTTP surface together: FastAPI routes over a predictor. Knows no task by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from agent.bundle import installed_versions
from serving import hugging_face, state
from serving.front import Duty, Front
from serving.payload import PayloadReader
from serving.predictor import Predictor
from serving.replies import ErrorBody, reply


def create_app(predictor: Predictor, duties: Sequence[Duty] = (), front: Front | None = None) -> FastAPI:
    """The application over one predictor."""
    front = front or Front()
    reader = PayloadReader(predictor.engine.bundle.task, max_texts=predictor.limits.max_texts)
    app = FastAPI(
        title="bert-agent",
        version=installed_versions(state.VERSIONS).get("bert-agent", "unknown"),
        description=f"Serves an agent for {predictor.engine.bundle.task.kind.replace('_', ' ')}.",
        redoc_url=None,
        lifespan=lambda _: _on_duty([*duties, *front.duties]),
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    app.include_router(hugging_face.routes(predictor, reader))
    app.include_router(state.routes(predictor))
    app.add_exception_handler(HTTPException, _on_http_exception)
    front.stand_before(app, predictor.metrics)
    _complete_schema(app, reader, front)
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


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        body = ErrorBody(
            error=f"method {request.method} is not allowed here", allowed=headers.get("Allow"), remedy="see /docs"
        )
    elif error.status_code == 404:
        paths = ", ".join(sorted(request.app.openapi()["paths"]))
        body = ErrorBody(error="there is nothing at this path", allowed=paths, remedy="see /docs")
    else:
        body = ErrorBody(error=str(error.detail))
    return reply(body, status=error.status_code, headers=headers)


def _complete_schema(app: FastAPI, reader: PayloadReader, front: Front) -> None:
    """Adds the request's model to the OpenAPI document: FastAPI does not see bodies that are read by hand."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            model = reader.model.model_json_schema(ref_template=hugging_face.REF)
            document["components"]["schemas"] |= model.pop("$defs", {}) | {reader.model.__name__: model}
            front.describe(document)
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]
