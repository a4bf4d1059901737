"""Answers leave a replica whole: their head and the first of their body in one write.

uvicorn (0.54, protocols/http/httptools_impl.py) writes the head when it has it, and the body after. A replica that dies
between the two leaves HAProxy with half an answer, which it can neither send on nor ask another replica for; and every
answer wakes HAProxy twice.
"""

from __future__ import annotations

from asyncio import Transport
from typing import Any

from starlette.types import Message, Send


def in_one_write(send: Send) -> Send:
    """`send`, which holds an answer's head back until its body begins.

    An application that fails in between has not begun to answer, so the server still can.

    Args:
        send: uvicorn's own; that of another server is returned as it is.
    """
    cycle = getattr(send, "__self__", None)
    return _Answer(cycle, send).send if hasattr(cycle, "transport") else send


class _Answer:
    def __init__(self, cycle: Any, send: Send) -> None:
        self._cycle, self._send = cycle, send
        self._head: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._head is None:
            self._head = message
            return
        if self._head is None:
            await self._send(message)
            return
        head, self._head = self._head, None
        transport = self._cycle.transport
        self._cycle.transport = joined = _Joined(transport)
        try:
            await self._send(head)
            await self._send(message)
        finally:
            self._cycle.transport = transport
            joined.flush()


class _Joined:
    """A transport that keeps what it is given, for one write.

    Args:
        transport: Writes, and does everything else.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport, self._kept = transport, list[bytes]()

    def write(self, data: bytes) -> None:
        self._kept.append(data)

    def flush(self) -> None:
        if self._kept:
            self._transport.write(b"".join(self._kept))
            self._kept.clear()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
