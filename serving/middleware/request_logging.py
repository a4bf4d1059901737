"""Outermost ASGI middleware: gives every request an id, counts and reports every answer, turns errors into JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent import telemetry
from agent.errors import RequestError
from serving.metrics import Metrics
from serving.middleware.request_headers import client_of, headers_of
from serving.middleware.responses import failure, refusal
from serving.scheduling.refusals import CALLER_LEFT
from serving.scheduling.request_context import REQUEST_ID, Report, RequestContext, begin, checked_id, new_id

_log = logging.getLogger(__name__)
_OTHER = "other"  # one series for all paths that do not exist
_REQUEST_ID = REQUEST_ID.encode()


class RequestLogging:
    """Counts every answer; turns what escapes the routes into JSON.

    Args:
        app: What answers.
        metrics: Where answers are counted.
        reports: What is told of every context.
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
        context = RequestContext(new_id(), scope["method"], keeps_texts=self._keeps_texts)
        begin(context)

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                self._metrics.count(telemetry.REQUESTS, route=_route(scope), status=str(context.status))
                if self._adds_id:
                    message["headers"] = [*message["headers"], (_REQUEST_ID, context.request_id.encode())]
            await send(message)

        try:
            if given := headers_of(scope["headers"]).get(REQUEST_ID):
                context.request_id = checked_id(given)
            await self._app(scope, receive, observe)
        except RequestError as error:
            await refusal(error)(scope, receive, observe)
        except Exception:
            if context.status:
                raise
            _log.exception("request %s failed", context.request_id)
            await failure()(scope, receive, observe)
        finally:
            if self._reports:
                self._report(context, scope)

    def _report(self, context: RequestContext, scope: Scope) -> None:
        context.route, context.client = _route(scope), client_of(scope["headers"], scope.get("client"))
        context.traceparent = headers_of(scope["headers"]).get("traceparent", "")
        report(context, self._reports)


def report(context: RequestContext, reports: Sequence[Report]) -> None:
    """Tells reports of a request that is over; one without an answer has lost its caller."""
    context.seconds = time.monotonic() - context.started
    context.status = context.status or CALLER_LEFT
    for each in reports:
        each(context)


def _route(scope: Scope) -> str:
    """The path as it was declared (`/models/{name}`), which the router has left in the scope."""
    return str(getattr(scope.get("route"), "path", _OTHER))
