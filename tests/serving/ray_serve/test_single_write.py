"""How often uvicorn writes for one answer, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.ray_serve.single_write import in_one_write

BODIES = {"/one": [b"whole"], "/stream": [b"first ", b"second ", b"third"], "/empty": [b""]}


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    bodies = BODIES.get(scope["path"], [])
    length = [(b"content-length", b"%d" % sum(map(len, bodies)))] if scope["path"] != "/stream" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    if not bodies:
        raise RuntimeError("between head and body")
    for n, body in enumerate(bodies, start=1):
        await send({"type": "http.response.body", "body": body, "more_body": n < len(bodies)})


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(scope, receive, in_one_write(send))


class Watched:
    """A transport that counts."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport, self._writes = transport, writes

    def write(self, data: bytes) -> None:
        if data:
            self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@contextmanager
def server(app: Any, protocol: type) -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and what it writes."""
    writes: list[bytes] = []

    class Recorded(protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(Watched(transport, writes))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=Recorded, lifespan="off", log_config=None, access_log=False)
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1], writes
        finally:
            running.should_exit = True
            thread.join()


def exchange(port: int, *requests: str) -> bytes:
    """What comes back until the server closes, which the last request asks for; all requests are sent at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as caller:
        *others, last = [f"{request} HTTP/1.1\r\nhost: x\r\n" for request in requests]
        caller.sendall("".join([f"{other}\r\n" for other in others] + [f"{last}connection: close\r\n\r\n"]).encode())
        return b"".join(iter(lambda: caller.recv(65_536), b""))


@pytest.fixture(params=[HttpToolsProtocol, H11Protocol])
def protocol(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.mark.parametrize(("app", "count"), [(answer, 2), (whole, 1)])
def test_head_and_body_are_one_write(app: Any, count: int, protocol: type) -> None:
    with server(app, protocol) as (port, writes):
        got = exchange(port, "GET /one")
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"\r\n\r\nwhole")
    assert (b"".join(writes), len(writes)) == (got, count)


def test_answers_behind_each_other_on_one_connection_are_one_write_each(protocol: type) -> None:
    with server(whole, protocol) as (port, writes):
        got = exchange(port, "GET /one", "GET /empty", "HEAD /one", "GET /one")
    assert [write.rpartition(b"\r\n\r\n")[2] for write in writes] == [b"whole", b"", b"", b"whole"]
    assert b"".join(writes) == got


def test_a_stream_begins_with_its_first_part_and_goes_on_as_it_comes(protocol: type) -> None:
    with server(whole, protocol) as (port, writes):
        exchange(port, "GET /stream")
    parts = [part for part in (b"first ", b"second ", b"third") for write in writes if part in write]
    assert parts == [b"first ", b"second ", b"third"]
    assert b"first " in writes[0]
    assert writes[0].startswith(b"HTTP/1.1 200")
    assert b"second " not in writes[0]


def test_who_fails_before_the_body_has_not_answered(protocol: type) -> None:
    with server(whole, protocol) as (port, _):
        assert exchange(port, "GET /fails").startswith(b"HTTP/1.1 500")


def test_what_is_not_of_uvicorn_is_left_alone() -> None:
    async def send(message: Any) -> None:
        del message

    assert in_one_write(send) is send
