"""Answers prediction requests by callbacks: head and body in, one write out, without a task or a framework around it.

Used by the HTTP protocol of a replica (serving/ray_serve/http_protocol.py) for the requests that most callers send. All else
(streams, other origins, other routes) takes the application's ASGI routes, which read and answer with the same functions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from agent import telemetry
from agent.errors import RequestError
from serving.api import streaming
from serving.api.endpoint import Asked, Endpoint, check_head
from serving.api.request_body import too_large, too_slow
from serving.middleware.middleware_stack import MiddlewareStack
from serving.middleware.request_headers import client_of, headers_of
from serving.middleware.request_logging import report
from serving.middleware.responses import failure, refusal
from serving.scheduling.prediction import Outcome, Prediction
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import reason_of
from serving.scheduling.request_context import REQUEST_ID, RequestContext, checked_id, new_id

_log = logging.getLogger(__name__)
_REQUEST_ID = REQUEST_ID.encode()

RawHeaders = Sequence[tuple[bytes, bytes]]
Send = Callable[[int, list[tuple[bytes, bytes]], bytes], None]
"""Writes an answer: status, headers, body."""


class PredictionService:
    """The endpoints that predict, for a server that calls them directly.

    Args:
        predictor: What answers.
        endpoints: Where it is asked.
        front: Whose keys are asked for and who is told of requests.
    """

    def __init__(self, predictor: Predictor, endpoints: Sequence[Endpoint], front: MiddlewareStack) -> None:
        self.predictor, self.front = predictor, front
        self._endpoints = [endpoint for endpoint in endpoints if not endpoint.streams]  # an answer here is one write
        self.routes: dict[bytes, Endpoint] = {}
        self._prefix: str | None = None

    def mount(self, prefix: str) -> None:
        """Learns below which prefix the application lies; until then it takes no request."""
        if prefix == self._prefix:
            return
        self._prefix = prefix
        paths = {path: endpoint for endpoint in self._endpoints for path in endpoint.paths}
        self.routes = {(prefix + path).encode(): endpoint for path, endpoint in paths.items()}
        if prefix and "/" in paths:
            self.routes[prefix.encode()] = paths["/"]

    def takes(self, headers: dict[str, str]) -> bool:
        """Whether a request to one of the routes needs nothing that only the ASGI application does."""
        if "origin" in headers and self.front.cors.allow_origins:
            return False
        if "expect" in headers or "upgrade" in headers or not all(map(str.isascii, headers.values())):
            return False
        return not streaming.wanted(headers.get("accept", ""), headers.get("content-type", ""))


class PredictionCall:
    """One request on its way. `begin` first, then `receive` once the body is there; `send` is called once at most.

    Args:
        service: What answers.
        endpoint: Where it was asked.
        raw_headers: As they came.
        send: Writes the answer.
    """

    __slots__ = (
        "_asked", "_context", "_endpoint", "_prediction", "_raw_headers", "_send", "_service", "_timeout_s", "headers", "over",
    )  # fmt: skip

    def __init__(self, service: PredictionService, endpoint: Endpoint, raw_headers: RawHeaders, send: Send) -> None:
        self._service, self._endpoint, self._raw_headers, self._send = service, endpoint, raw_headers, send
        self.headers = headers_of(raw_headers)
        self._prediction: Prediction | None = None
        self._asked: Asked | None = None
        self.over = False

    def begin(self, peer: Sequence[object] | None) -> None:
        """Checks the head; a request that is refused for it is over.

        Args:
            peer: Address of the other end of the connection.
        """
        front, headers = self._service.front, self.headers
        self._context = context = RequestContext(new_id(), "POST", self._endpoint.route, keeps_texts=front.keeps_texts)
        if front.reports:
            context.client = client_of(self._raw_headers, peer)
            context.traceparent = headers.get("traceparent", "")
        try:
            if given := headers.get(REQUEST_ID):
                context.request_id = checked_id(given)
            if front.keys is not None:
                front.keys.admit(headers, context)
            self._timeout_s = check_head(self._service.predictor, headers, self._endpoint.types(headers))
        except RequestError as error:
            self._refuse_unasked(error)

    def receive(self, body: bytes) -> None:
        """Takes the body, and asks for the answer."""
        try:
            self._asked = asked = self._endpoint.read(body, self.headers)
        except RequestError as error:
            self._refuse_unasked(error)
        except Exception as error:  # noqa: BLE001 - told to the caller
            self._finish(error)
        else:
            self._prediction = self._service.predictor.submit(
                asked.texts, asked.parameters, self._finish, context=self._context, timeout_s=self._timeout_s
            )

    def refuse_large(self) -> None:
        """The body grew beyond the limit."""
        self._refuse_unasked(too_large(self._service.predictor.limits.max_body_bytes))

    def refuse_slow(self) -> None:
        """The body was not there in time."""
        self._refuse_unasked(too_slow(self._service.predictor.limits.max_body_s))

    def hang_up(self) -> None:
        """The caller is gone: what still waits is not computed."""
        if self.over:
            return
        self.over = True
        if self._prediction is not None:
            self._service.predictor.cancel(self._prediction)
        else:
            self._service.predictor.metrics.count(telemetry.REJECTED, reason="cancelled")
        report(self._context, self._service.front.reports)

    def _refuse_unasked(self, error: RequestError) -> None:
        """Refuses what the predictor, which counts its own refusals, has not seen."""
        self._service.predictor.metrics.count(telemetry.REJECTED, reason=reason_of(error))
        self._finish(error)

    def _finish(self, outcome: Outcome) -> None:
        if self.over:
            return
        if not isinstance(outcome, Exception):
            assert self._asked is not None
            try:
                body, media_type, further = self._asked.write(outcome)
            except Exception as error:  # noqa: BLE001 - told to the caller
                outcome = error
            else:
                headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
                headers += [(name.lower().encode(), value.encode()) for name, value in further.items()]
                self._answer(200, headers, body)
                return
        if isinstance(outcome, RequestError):
            response = refusal(outcome)
        else:
            _log.error("request %s failed", self._context.request_id, exc_info=outcome)
            response = failure()
        self._answer(response.status_code, response.raw_headers, bytes(response.body))

    def _answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.over = True
        context, service = self._context, self._service
        context.status = status
        service.predictor.metrics.count(telemetry.REQUESTS, route=context.route, status=str(status))
        headers.append((_REQUEST_ID, context.request_id.encode()))
        self._send(status, headers, body)
        if service.front.reports:
            report(context, service.front.reports)
