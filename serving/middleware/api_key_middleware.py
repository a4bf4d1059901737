"""ASGI middleware that asks for an API key before a byte of the body is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from agent import telemetry
from agent.errors import RequestError
from serving.metrics import Metrics
from serving.middleware.api_keys import ApiKeys
from serving.middleware.request_headers import headers_of, route_path
from serving.middleware.responses import refusal
from serving.scheduling.refusals import reason_of
from serving.scheduling.request_context import current

OPEN = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})  # probes carry no keys
# A person types the key into the page; it holds nothing of the agent's. /models/NAME redirects to the page, /models/NAME/.
_PAGE, _FILES = ("", "/"), "/static/"


class ApiKeyMiddleware:
    """Asks for a key on every route but those of health and the page.

    Args:
        app: What is guarded.
        keys: Who may ask.
        metrics: Where refusals are counted.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, metrics: Metrics) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] == "http" and not _is_open(scope):
            try:
                self._keys.admit(headers_of(scope["headers"]), current())
            except RequestError as error:
                self._metrics.count(telemetry.REJECTED, reason=reason_of(error))
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    path = route_path(scope)
    return path in OPEN or (scope["method"] in ("GET", "HEAD") and (path in _PAGE or path.startswith(_FILES)))
