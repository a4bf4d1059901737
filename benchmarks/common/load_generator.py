"""Sends requests to a server over keep-alive connections, on one event loop, at about 80 microseconds of CPU a request."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

Input = str | Mapping[str, str]
"""A text, or the texts of one input by name."""
Inputs = Input | Sequence[Input]


class Answer(NamedTuple):
    """The result of one request: HTTP status or kind of error, seconds, start, and bytes of its body."""

    status: int | str
    seconds: float
    started: float
    num_bytes: int = 0


def plain_body(inputs: Inputs) -> bytes:
    """A request body in the form of Hugging Face's inference API."""
    return json.dumps({"inputs": inputs}).encode()


class LoadGenerator:
    """Sends requests with random texts.

    Args:
        port: Port of the server on this machine.
        texts: Inputs to draw from.
        timeout_s: Timeout of a request.
        path: Path of the requests.
        body: Makes the body of a request from a text or several.
    """

    def __init__(
        self,
        port: int,
        texts: Sequence[Input],
        *,
        timeout_s: float = 60,
        path: str = "/",
        body: Callable[[Inputs], bytes] = plain_body,
    ) -> None:
        self._port, self._texts, self._timeout_s, self._random = port, texts, timeout_s, random.Random(0)
        self._body, self._head = body, _HEAD.replace(b" / ", f" {path} ".encode())
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def closed_loop(self, seconds: float, callers: int, *, size: int = 0) -> list[Answer]:
        """Load of a number of callers, each of which sends its next request when the last is answered."""
        end, answers = time.monotonic() + seconds, []

        async def call() -> None:
            while time.monotonic() < end:
                answers.append(await self.ask(size))

        await self._all([call() for _ in range(callers)])
        return answers

    async def open_loop(self, seconds: float, rate: float, *, size: int = 0) -> list[Answer]:
        """Load at a fixed rate, whether requests are answered or not."""
        start, answers, tasks = time.monotonic(), [], set()

        async def call() -> None:
            answers.append(await self.ask(size))

        for number in range(int(seconds * rate)):
            wait = start + number / rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(call())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        self._close_idle()
        return answers

    async def ask(self, size: int = 0) -> Answer:
        """Sends a request with a text, or with `size` texts."""
        body = self._body(self._random.choices(self._texts, k=size) if size else self._random.choice(self._texts))
        started, status = time.monotonic(), "none"
        try:
            async with asyncio.timeout(self._timeout_s):
                status = (await self._send(body))[0]
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            status = type(error).__name__
        return Answer(status, time.monotonic() - started, started, len(body))

    async def answer(self, inputs: Inputs) -> Any:
        """The server's answer to these inputs.

        Raises:
            OSError: The status is not 200.
        """
        status, content = await self._send(self._body(inputs))
        if status != 200:
            raise OSError(f"status {status}: {content[:300].decode(errors='replace')}")
        return json.loads(content)

    async def _send(self, body: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = connection
        try:
            writer.write(self._head % len(body) + body)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            start = head.index(b"content-length:") + 15
            content = await reader.readexactly(int(head[start : head.index(b"\r\n", start)]))
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in head:
            writer.close()
        else:
            self._idle.append(connection)
        return int(head[9:12]), content

    async def _all(self, calls: list[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*calls)
        self._close_idle()

    def _close_idle(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


_HEAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
