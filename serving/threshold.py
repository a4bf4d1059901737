"""The layer before Ray Serve's own HTTP code: refuses with JSON what that would fail on. Ray is told of it by its environment.

Ray (2.60, serve/_private/replica.py) decodes headers as UTF-8, and answers a plain 500 where they are not. A replica also
starts two tasks for every request, to notice callers who hang up; a header that it knows declines that, since
`serving.hangup` sees to it for less. Ray's proxy, which requests pass where there is no replica or no HAProxy, is the only one
that sees its callers, so there the header must not be.
"""

from __future__ import annotations

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.errors import RequestError
from serving.one_write import in_one_write
from serving.replies import refusal

_UNWATCHED = b"x-request-disconnect-disabled"


class Threshold:
    """Lets in only requests that Ray Serve can read.

    Args:
        app: Ray Serve's.
        watches: Whether Ray Serve is to notice callers who hang up.
    """

    def __init__(self, app: ASGIApp, *, watches: bool) -> None:
        self._app, self._watches = app, watches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http":
            send = in_one_write(send)
            try:
                _check(scope)
            except RequestError as error:
                await refusal(error)(scope, receive, send)
                return
            headers = [pair for pair in scope["headers"] if pair[0] != _UNWATCHED]  # a caller has no say in it
            scope["headers"] = headers if self._watches else [*headers, (_UNWATCHED, b"?1")]
        await self._app(scope, receive, send)


def layers() -> list[Middleware]:
    """Asked by Ray Serve, through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(Threshold, watches=not _in_replica())]


def _in_replica() -> bool:
    try:
        serve.get_replica_context()
    except RayServeException:
        return False
    return True


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
