"""LoadGenerator count every request once, whatever becomes of it; the soak's figures say what happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.common.load_generator import Answer, LoadGenerator
from benchmarks.soak import _summary, aims

Scenario = Callable[[LoadGenerator], Awaitable[Any]]


def drive(scenario: Scenario, answer: Callable[[int], bytes | None], **options: Any) -> tuple[Any, int]:
    """Runs a scenario against a server that gives its n-th request `answer(n)`; None is silence. Connections, too."""
    seen, connections = 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen, connections
        connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.rpartition(b"content-length: ")[2]))
                seen += 1
                reply = answer(seen)
                if reply is None:
                    await asyncio.sleep(5)
                elif not reply:
                    return
                else:
                    writer.write(reply)
        except (EOFError, OSError):
            return
        finally:
            writer.close()

    async def run() -> Any:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        callers = LoadGenerator(server.sockets[0].getsockname()[1], ["a", "b"], **options)
        try:
            return await scenario(callers)
        finally:
            server.close()

    return asyncio.run(run()), connections


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"


def test_every_request_is_counted_with_what_became_of_it() -> None:
    replies = {1: OK, 2: BUSY, 3: b"", 4: b"HTTP/1.1 200 OK\r\n\r\n", 5: None}

    async def scenario(callers: LoadGenerator) -> list[Answer]:
        return [await callers.ask() for _ in range(6)]

    answers, _ = drive(scenario, lambda number: replies.get(number, OK), timeout_s=0.3)
    assert [answer.status for answer in answers] == [200, 429, "IncompleteReadError", "ValueError", "TimeoutError", 200]


def test_open_callers_keep_their_rate_and_connections_are_used_again() -> None:
    answers, connections = drive(lambda callers: callers.open_loop(0.5, 100), lambda _: OK)
    assert len(answers) == 50
    assert connections < 20
    begun = [answer.started for answer in answers]
    assert 0.3 < max(begun) - min(begun) < 1.5


def test_closed_callers_ask_until_the_time_is_up() -> None:
    answers, connections = drive(lambda callers: callers.closed_loop(0.3, 4, size=3), lambda _: OK)
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert len(answers) > 8
    assert connections == 4


def test_a_summary_counts_by_status_and_takes_latency_from_what_was_answered() -> None:
    answers = [Answer(200, seconds / 100, 0.0) for seconds in range(1, 101)]
    answers += [Answer(429, 9.0, 0.0), Answer("TimeoutError", 60.0, 0.0), Answer(500, 1.0, 0.0)]
    summary = _summary(answers)
    assert (summary["requests"], summary["refused"], summary["failed"]) == (103, 1, 2)
    assert (summary["p50_s"], summary["p99_s"]) == (0.51, 1.0)


def test_aims_of_stages_that_did_not_run_are_not_measured() -> None:
    found = aims({"killed": {"failed": 1, "replicas_afterwards": 2}})
    assert {aim.name for aim in found if aim.measured is not None} == {
        "killed: failed requests",
        "killed: replicas afterwards",
    }
    assert str(found[0]) == "aim overload: answers other than 200 and 429: not measured (aim at most 0)"
