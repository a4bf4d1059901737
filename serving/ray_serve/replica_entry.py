"""The layer before Ray Serve's own HTTP code: refuses with JSON what that would fail on, and takes predictions past it.

Ray is told of it by its environment (`serving.ray_serve.haproxy.everywhere`), and asks for it when a replica, or a proxy of
Ray's own, opens its port. Ray (2.60, serve/_private/replica.py) decodes headers as UTF-8, and answers a plain 500 where they
are not; and it believes a caller who tells it not to notice when callers hang up.
"""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.errors import RequestError
from serving.middleware.responses import refusal
from serving.ray_serve import http_protocol

_UNWATCHED = b"x-request-disconnect-disabled"


class ReplicaEntry:
    """Lets in only requests that Ray Serve can read.

    Args:
        app: Ray Serve's.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http":
            try:
                _check(scope)
            except RequestError as error:
                await refusal(error)(scope, receive, send)
                return
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != _UNWATCHED]
        await self._app(scope, receive, send)


def layers() -> list[Middleware]:
    """Asked by Ray Serve, through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH, before it starts uvicorn."""
    try:
        serve.get_replica_context()
    except RayServeException:  # a proxy of Ray's own
        pass
    else:
        http_protocol.install(_predictions_of_this_replica)
    return [Middleware(ReplicaEntry)]


def _predictions_of_this_replica() -> Any:
    """Ray opens the port of a replica a moment before it tells the replica's code of the agent in it."""
    return getattr(serve.get_replica_context().servable_object, "predictions", None)


def _check(scope: Scope) -> None:
    for name, value in scope["headers"]:
        if not value.isascii() and not _is_utf8(value):
            field = name.decode("latin-1")
            raise RequestError(
                f"header {field} is no UTF-8",
                allowed="headers in UTF-8",
                remedy="leave it out",
                status=400,
                field=field,
            )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
