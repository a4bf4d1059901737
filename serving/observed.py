"""The outermost layer of the HTTP surface: counts every answer by route and status, lets no internals out."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent import telemetry
from serving.metrics import Metrics
from serving.replies import failure

_log = logging.getLogger(__name__)
_OTHER = "other"  # one series for all paths that do not exist


class Observed:
    """Counts every answer; turns what escapes the routes into JSON."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def observe(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.count(telemetry.REQUESTS, route=_route(scope), status=str(message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, observe)
        except Exception:
            if started:
                raise
            _log.exception("a request failed")
            await failure()(scope, receive, observe)


def _route(scope: Scope) -> str:
    """The path as it was declared (`/models/{name}`), which the router has left in the scope."""
    return str(getattr(scope.get("route"), "path", _OTHER))
