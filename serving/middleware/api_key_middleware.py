"""The layer that lets in only who shows a key, before a byte of the body is read. Knows nothing of texts."""

from __future__ import annotations

from collections.abc import Iterable

from starlette._utils import get_route_path  # what the router itself goes by, so that both see the same path
from starlette.types import ASGIApp, Receive, Scope, Send

from agent import telemetry
from agent.errors import RequestError
from serving.api.responses import refusal
from serving.metrics import Metrics
from serving.middleware.api_keys import ApiKeys
from serving.middleware.request_context import current
from serving.scheduling.predictor import reason_of

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
                self._keys.admit(_presented(scope["headers"]), current())
            except RequestError as error:
                self._metrics.count(telemetry.REJECTED, reason=reason_of(error))
                await refusal(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    path = get_route_path(scope)
    return path in OPEN or (scope["method"] in ("GET", "HEAD") and (path in _PAGE or path.startswith(_FILES)))


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    found: str | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return key.strip()
        elif name == b"x-api-key":
            found = value.decode("latin-1").strip()
    return found
