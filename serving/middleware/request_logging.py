"""The outermost layer of the HTTP surface: every request gets an id, every answer is counted and reported, no internals get out."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent import telemetry
from agent.errors import RequestError
from serving.api.responses import failure, refusal
from serving.metrics import Metrics
from serving.middleware.request_context import (
    CALLER_LEFT,
    REQUEST_ID,
    Report,
    RequestContext,
    begin,
    checked_id,
    new_id,
)

_log = logging.getLogger(__name__)
_OTHER = "other"  # one series for all paths that do not exist
_REQUEST_ID = REQUEST_ID.encode()


class RequestLogging:
    """Counts every answer; turns what escapes the routes into JSON.

    Args:
        app: What answers.
        metrics: Where answers are counted.
        reports: What is told of every exchange.
        keeps_texts: Whether a report wants the texts.
        adds_id: Whether answers carry the request's id.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        reports: Sequence[Report] = (),
        keeps_texts: bool = False,
        adds_id: bool = True,
    ) -> None:
        self._app, self._metrics = app, metrics
        self._reports, self._keeps_texts, self._adds_id = reports, keeps_texts, adds_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = RequestContext(new_id(), scope["method"], keeps_texts=self._keeps_texts)
        begin(exchange)

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                self._metrics.count(telemetry.REQUESTS, route=_route(scope), status=str(exchange.status))
                if self._adds_id:
                    message["headers"] = [*message["headers"], (_REQUEST_ID, exchange.request_id.encode())]
            await send(message)

        try:
            exchange.request_id = _given_id(scope) or exchange.request_id
            await self._app(scope, receive, observe)
        except RequestError as error:
            await refusal(error)(scope, receive, observe)
        except Exception:
            if exchange.status:
                raise
            _log.exception("request %s failed", exchange.request_id)
            await failure()(scope, receive, observe)
        finally:
            if self._reports:
                self._report(exchange, scope)

    def _report(self, exchange: RequestContext, scope: Scope) -> None:
        exchange.seconds = time.monotonic() - exchange.started
        exchange.route, exchange.client = _route(scope), _client(scope)
        exchange.traceparent = _header(scope, b"traceparent")
        exchange.status = exchange.status or CALLER_LEFT
        for report in self._reports:
            report(exchange)


def _route(scope: Scope) -> str:
    """The path as it was declared (`/models/{name}`), which the router has left in the scope."""
    return str(getattr(scope.get("route"), "path", _OTHER))


def _given_id(scope: Scope) -> str:
    given = _header(scope, _REQUEST_ID)
    return checked_id(given) if given else ""


def _client(scope: Scope) -> str:
    """Who asks: HAProxy appends the address that it saw to this header, whatever the caller wrote there before."""
    forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    if forwarded:
        return str(forwarded[-1].decode("latin-1").rpartition(",")[2].strip())
    return scope["client"][0] if scope.get("client") else ""


def _header(scope: Scope, wanted: bytes) -> str:
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return ""
