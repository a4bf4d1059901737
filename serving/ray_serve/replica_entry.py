"""The layer before Ray Serve's own HTTP code: refuses with JSON what that would fail on, and takes predictions past it.

Ray is told of this layer by its environment (`serving.ray_serve.haproxy.everywhere`).

Ray (2.60, serve/_private/replica.py) decodes headers as UTF-8, and answers a plain 500 where they are not. A replica also
starts two tasks for every request, to notice callers who hang up; a header that it knows declines that, since
`serving.ray_serve.disconnect` sees to it for less. Ray's proxy, which requests pass where there is no replica or no HAProxy, is the only one
that sees its callers, so there the header must not be.
"""

from __future__ import annotations

from collections.abc import Callable

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.errors import RequestError
from serving.api.responses import refusal
from serving.ray_serve.direct_predictions import Lane
from serving.ray_serve.single_write import in_one_write

_UNWATCHED = b"x-request-disconnect-disabled"


class ReplicaEntry:
    """Lets in only requests that Ray Serve can read.

    Args:
        app: Ray Serve's.
        watches: Whether Ray Serve is to notice callers who hang up.
        find_lane: Finds what answers predictions without Ray Serve; asked until it is there.
    """

    def __init__(self, app: ASGIApp, *, watches: bool, find_lane: Callable[[], Lane | None] | None = None) -> None:
        self._app, self._watches, self._find_lane = app, watches, find_lane
        self._lane: Lane | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http":
            send = in_one_write(send)
            try:
                _check(scope)
            except RequestError as error:
                await refusal(error)(scope, receive, send)
                return
            if self._lane is None and self._find_lane:
                self._lane = self._find_lane()
            if self._lane and self._lane.takes(scope):
                await self._lane(scope, receive, send)
                return
            headers = [pair for pair in scope["headers"] if pair[0] != _UNWATCHED]  # a caller has no say in it
            scope["headers"] = headers if self._watches else [*headers, (_UNWATCHED, b"?1")]
        await self._app(scope, receive, send)


def layers() -> list[Middleware]:
    """Asked by Ray Serve, through RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    try:
        serve.get_replica_context()
    except RayServeException:  # a proxy of Ray
        return [Middleware(ReplicaEntry, watches=True)]
    return [Middleware(ReplicaEntry, watches=False, find_lane=_lane_of_this_replica)]


def _lane_of_this_replica() -> Lane | None:
    """Ray opens the port of a replica a moment before it tells the replica's code of the agent in it."""
    return getattr(serve.get_replica_context().servable_object, "lane", None)


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
