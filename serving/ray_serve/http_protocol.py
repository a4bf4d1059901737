"""The HTTP protocol of a replica: uvicorn's, with predictions taken out of it before they become a task and an ASGI scope.

Leans on private parts of uvicorn 0.54 (protocols/http/httptools_impl.py): the parser's callbacks, `cycle`, `pipeline` and
`on_response_complete`. tests/serving/ray_serve/test_http_protocol.py tells when they change; pyproject.toml bounds the version.

An answer leaves in one write: a replica that dies has answered a request wholly or not at all, and HAProxy can ask another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.api.prediction_service import PredictionCall, PredictionService

FindService = Callable[[], PredictionService | None]


class PredictionProtocol(HttpToolsProtocol):
    """One connection."""

    find_service: ClassVar[FindService] = staticmethod(lambda: None)
    _service: PredictionService | None = None
    _exchange: _Exchange | None = None

    def data_received(self, data: bytes) -> None:
        """Starts the clock of a body that is not there yet."""
        super().data_received(data)
        if self._exchange is not None and self._exchange.waits_for_body:
            self._exchange.expect_body()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drops the work of a caller who hangs up."""
        super().connection_lost(exc)
        if self._exchange is not None:
            self._exchange.hang_up()

    def on_headers_complete(self) -> None:
        """Takes a request that predicts; leaves all others to uvicorn."""
        if self._service is None:
            self._service = type(self).find_service()
        endpoint = self._service.routes.get(self.url) if self._service is not None else None
        if (
            endpoint is None
            or self.parser.get_method() != b"POST"
            or not (self.cycle is None or self.cycle.response_complete)
        ):
            super().on_headers_complete()
            return
        assert self._service is not None
        exchange = _Exchange(self)
        call = PredictionCall(self._service, endpoint, self.headers, exchange.answer)
        if not self._service.takes(call.headers):
            super().on_headers_complete()
            return
        self.cycle = self._exchange = exchange  # type: ignore[assignment]
        exchange.begin(call, self._service.predictor.limits.max_body_bytes, self._service.predictor.limits.max_body_s)

    def on_body(self, body: bytes) -> None:
        """Keeps the body of a prediction."""
        if self._exchange is not None and self._exchange.waits_for_body:
            self._exchange.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Asks for a prediction once its body is there."""
        if self._exchange is not None and self._exchange.waits_for_body:
            self._exchange.complete()
        else:
            super().on_message_complete()


class _Exchange:
    """A prediction request on a connection; stands where uvicorn keeps the request that it answers."""

    __slots__ = (
        "_body", "_call", "_max_bytes", "_max_s", "_protocol", "_timer", "disconnected", "keep_alive", "message_event",
        "response_complete", "waits_for_body",
    )  # fmt: skip

    def __init__(self, protocol: PredictionProtocol) -> None:
        self._protocol = protocol
        self.response_complete = self.disconnected = self.waits_for_body = False
        self.message_event = _NOBODY_WAITS
        self._body: bytes | bytearray = b""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, call: PredictionCall, max_bytes: int, max_s: float) -> None:
        """Checks the head."""
        parser = self._protocol.parser
        self.keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
        self._call, self._max_bytes, self._max_s = call, max_bytes, max_s
        self.waits_for_body = True
        call.begin(self._protocol.client)

    def expect_body(self) -> None:
        """Gives the body its time, once."""
        if self._timer is None:
            self._timer = self._protocol.loop.call_later(self._max_s, self._call.refuse_slow)

    def take(self, part: bytes) -> None:
        """Takes a part of the body."""
        if self.response_complete:
            return
        if not self._body:
            self._body = part
        else:
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += part
        if len(self._body) > self._max_bytes:
            self._call.refuse_large()

    def complete(self) -> None:
        """The body is there."""
        if self.response_complete:
            return
        self._stop_waiting()
        body, self._body = self._body, b""
        self._call.receive(bytes(body))

    def hang_up(self) -> None:
        """The connection is gone."""
        self._stop_waiting()
        self._call.hang_up()

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Writes the answer at once, and lets the connection go on."""
        protocol = self._protocol
        self._stop_waiting()
        self._body = b""
        self.response_complete = True
        if not protocol.transport.is_closing():
            parts = [STATUS_LINE[status]]
            for name, value in protocol.server_state.default_headers:
                parts += (name, b": ", value, b"\r\n")
            for name, value in headers:
                parts += (name, b": ", value, b"\r\n")
            if not self.keep_alive:
                parts.append(b"connection: close\r\n")
            parts += (b"\r\n", body)
            protocol.transport.write(b"".join(parts))
            if not self.keep_alive:
                protocol.transport.close()
        protocol._exchange = None
        protocol.on_response_complete()

    def _stop_waiting(self) -> None:
        self.waits_for_body = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Nobody:
    """Stands for the event by which uvicorn wakes an ASGI application."""

    def set(self) -> None:
        """Wakes nobody."""


_NOBODY_WAITS: Any = _Nobody()


def protocol_for(find_service: FindService) -> type[PredictionProtocol]:
    """The protocol of a server that gives predictions to a service, once there is one."""
    return type("Protocol", (PredictionProtocol,), {"find_service": staticmethod(find_service)})


def install(find_service: FindService) -> None:
    """Makes it the protocol of servers that uvicorn starts in this process from now on and that name no other."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol_for(find_service)  # type: ignore[assignment]
