"""Predictions that go from uvicorn's parser straight to the predictor: byte by byte on real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn.config
from starlette._utils import get_route_path
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from agent.batching import Batch
from agent.bundle import Bundle
from agent.encoding import Float32
from serving.inference.engine import Engine, EngineConfig
from serving.metrics import Metrics
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import CorsConfig, FrontConfig
from serving.middleware.request_headers import route_path
from serving.ray_serve import http_protocol
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import listening
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS
from tests.waiting import until

WRITTEN_FOR = "0.54"
KEY = "anna-0123456789abcdef"
BODY = json.dumps({"inputs": TEXTS[0]}).encode()
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
GOOD = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def url(tagger_path: Path) -> Iterator[str]:
    limits = LimitsConfig(max_body_bytes=20_000, max_body_s=3)
    with listening(Predictor(Engine(Bundle.load(tagger_path), num_cpus=1), limits)) as place:
        yield place


def connect(url: str) -> socket.socket:
    place = httpx.URL(url)
    return socket.create_connection((place.host, place.port), timeout=10)


def exchange(url: str, *parts: bytes, answers: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    """Sends parts one after the other; reads as many answers, each with its status, headers and body."""
    with connect(url) as client:
        for part in parts:
            client.sendall(part)
            time.sleep(0.02)
        return [_answer(client.makefile("rb")) for _ in range(answers)]


def _answer(file: Any) -> tuple[int, dict[str, str], bytes]:
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    return status, headers, file.read(int(headers["content-length"]))


def test_uvicorn_is_the_one_that_the_protocol_was_written_for() -> None:
    """When this fails, read uvicorn's httptools_impl.py beside serving/ray_serve/http_protocol.py, then raise the bound."""
    assert version("uvicorn").startswith(WRITTEN_FOR)
    names = ["on_headers_complete", "on_body", "on_message_complete", "on_response_complete", "data_received"]
    assert all(callable(getattr(HttpToolsProtocol, name)) for name in (*names, "connection_lost", "shutdown"))
    assert {"response_complete", "disconnected", "keep_alive", "message_event"} <= set(
        RequestResponseCycle.__init__.__code__.co_names
    )
    assert "auto" in uvicorn.config.HTTP_PROTOCOLS


def test_a_server_that_names_no_protocol_gets_the_one_that_was_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    http_protocol.install(lambda: None)
    config = uvicorn.Config(lambda: None, factory=True, log_config=None)
    config.load()
    assert issubclass(config.http_protocol_class, http_protocol.PredictionProtocol)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [("/", ""), ("/a/", "/a"), ("/a", "/a"), ("/ab", "/a"), ("/a/b", "/a"), ("", ""), ("/b", "/a")],
)
def test_the_path_that_keys_are_asked_for_is_the_one_that_the_router_sees(path: str, prefix: str) -> None:
    scope = {"path": path, "root_path": prefix}
    assert route_path(scope) == get_route_path(scope)


def test_an_answer_is_what_the_engine_says_in_one_write(url: str, engine: Engine) -> None:
    for _ in range(20):
        with connect(url) as client:
            client.sendall(GOOD)
            piece = client.recv(65_536)
        head, _, body = piece.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}$", head)
        assert [item["word"] for item in json.loads(body)] == [item["word"] for item in engine.predict([TEXTS[0]])[0]]


def test_one_text_is_answered_alike_alone_and_among_others(tagger_path: Path) -> None:
    """With float32, whose results do not depend on the batch beyond rounding (static int8: docs/serving.md)."""
    with listening(Predictor(Engine(Bundle.load(tagger_path), precision="fp32", num_cpus=1))) as place:
        alone = [json.loads(exchange(place, _ask(text))[0][2]) for text in TEXTS]
        together = json.loads(exchange(place, _ask(TEXTS * 8))[0][2])
    for one, other in zip(alone * 8, together, strict=True):
        assert [item | {"score": 0} for item in one] == [item | {"score": 0} for item in other]
        assert [item["score"] for item in one] == pytest.approx([item["score"] for item in other], abs=1e-5)


def _ask(inputs: Any) -> bytes:
    body = json.dumps({"inputs": inputs}).encode()
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "request_parts",
    [
        (GOOD,),
        (GOOD[:10], GOOD[10:60], GOOD[60:-5], GOOD[-5:]),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % len(BODY), BODY + b"\r\n0\r\n\r\n"),
        (HEAD + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,),
        (GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"),),
        (GOOD.replace(b"POST /", b"POST /?a=b"),),
        (GOOD.replace(b"\r\nhost", b"\r\nconnection: close\r\nhost"),),
    ],
)
def test_however_a_request_arrives_it_is_answered(url: str, request_parts: tuple[bytes, ...]) -> None:
    with connect(url) as client:
        for part in request_parts:
            client.sendall(part)
            time.sleep(0.02)
        file = client.makefile("rb")
        found = _answer(file) if b"expect" not in request_parts[0] else _after_continue(file)
    assert found[0] == 200
    assert json.loads(found[2])


def _after_continue(file: Any) -> tuple[int, dict[str, str], bytes]:
    assert file.readline().startswith(b"HTTP/1.1 100 ")
    assert file.readline() == b"\r\n"
    return _answer(file)


def test_pipelined_requests_are_answered_in_their_order(url: str) -> None:
    bad = GOOD.replace(b'{"inputs"', b'{"INPUTS"')
    info = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with connect(url) as client:
        client.sendall(GOOD + bad + info + GOOD + GOOD)
        file = client.makefile("rb")
        found = [_answer(file) for _ in range(5)]
    assert [status for status, _, _ in found] == [200, 422, 200, 200, 200]
    assert found[0][2] == found[3][2] == found[4][2]


def test_a_body_that_grows_too_large_or_comes_too_slowly_is_refused(url: str) -> None:
    told = HEAD + b"content-length: 30000\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (9_000, b" " * 9_000)
    assert exchange(url, told)[0][0] == 413
    assert exchange(url, HEAD + b"transfer-encoding: chunked\r\n\r\n", chunk, chunk, chunk)[0][0] == 413
    status, _, body = exchange(url, HEAD + b"content-length: 100\r\n\r\n", b"{")[0]
    assert status == 408
    assert "within 3 s" in json.loads(body)["error"]


def test_the_connection_goes_on_after_a_refusal(url: str) -> None:
    wrong = GOOD.replace(b"application/json", b"text/plain")
    with connect(url) as client:
        file = client.makefile("rb")
        for request, status in ((wrong, 415), (GOOD, 200), (GOOD.replace(b"host", b"x-request-id: \xe4\r\nhost"), 400)):
            client.sendall(request)
            assert _answer(file)[0] == status


def test_the_work_of_a_caller_who_hangs_up_is_dropped(tagger_path: Path) -> None:
    metrics = Metrics()
    predictor = Predictor(gated(tagger_path), metrics=metrics)
    with listening(predictor, warm=False) as place, connect(place) as first:
        first.sendall(GOOD)
        assert until(lambda: predictor._live.in_flight == 1)
        with connect(place) as second:
            second.sendall(_ask([TEXTS[0]] * 20))
            assert until(lambda: predictor.batcher.queued_windows >= 20)
        assert until(lambda: predictor.batcher.queued_windows == 0)
        predictor.engine.gate.set()  # type: ignore[attr-defined]
        assert _answer(first.makefile("rb"))[0] == 200
    assert 'rejected_requests_total{reason="cancelled",replica="local"} 1.0' in metrics.render().decode()


def test_a_deadline_ends_what_waits(serve_with: Callable[..., str], tagger_path: Path) -> None:
    engine = gated(tagger_path)
    place = serve_with(engine=engine, warm=False)
    status, _, body = exchange(place, GOOD.replace(b"host", b"x-request-timeout-seconds: 0.2\r\nhost"))[0]
    engine.gate.set()
    assert status == 408
    assert "within the 0.19 s" in json.loads(body)["error"]


def test_keys_and_origins_are_seen_to_on_every_way(tagger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"anna: {KEY}\n")
    front = FrontConfig(
        auth=AuthConfig(keys_file=str(tmp_path / "keys")), cors=CorsConfig(allow_origins=("https://a.example",))
    )
    with listening(Predictor(Engine(Bundle.load(tagger_path), num_cpus=1)), front=front) as place:
        shown = GOOD.replace(b"host", b"authorization: Bearer " + KEY.encode() + b"\r\nhost")
        there = shown.replace(b"host", b"origin: https://a.example\r\nhost")
        assert [exchange(place, request)[0][0] for request in (GOOD, shown, there)] == [401, 200, 200]
        assert exchange(place, there)[0][1]["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in exchange(place, shown)[0][1]


class Slow(Engine):
    """An engine whose long windows hold the event loop for a known time each."""

    HOLD_S = 0.05
    held = 0

    def forward(self, batch: Batch) -> Float32:
        if batch.input_ids.shape[1] > 16:
            time.sleep(self.HOLD_S)
            self.held += 1
        return super().forward(batch)


def test_a_long_text_holds_others_no_longer_than_one_of_its_windows(tagger_path: Path) -> None:
    """A text of 100 windows is computed in turns of one batch: a health check waits for one of them, not for all."""
    engine = Slow(Bundle.load(tagger_path), EngineConfig(max_batch_tokens=32), num_cpus=1)
    assert engine.plan.on_event_loop

    async def scenario(place: str) -> list[int]:
        async with httpx.AsyncClient(timeout=60) as client:
            long = asyncio.create_task(client.post(place, json={"inputs": TEXTS[2] * 40}))
            waits = []
            while not long.done():
                before = engine.held
                assert (await client.get(place + "/health")).status_code == 200
                waits.append(engine.held - before)
            assert long.result().status_code == 200
            return sorted(waits)

    with listening(Predictor(engine)) as place:
        waits = asyncio.run(scenario(place))
    assert engine.held > 20  # windows
    assert len(waits) > 5
    assert waits[len(waits) // 2] <= 3  # turns for which a check waits


def test_a_plan_whose_longest_window_takes_too_long_leaves_the_event_loop(tagger_path: Path) -> None:
    class Longer(Slow):
        def _open(self, plan: Any = None) -> Any:
            sessions = super()._open(plan)
            forward = sessions.forward

            def slow(batch: Batch) -> Float32:
                time.sleep(0.12 if batch.input_ids.shape[1] >= 32 and len(batch.input_ids) == 1 else 0)
                return forward(batch)

            sessions.forward = slow
            return sessions

    config = EngineConfig(arena=True, max_batch_tokens=32)
    assert Engine(Bundle.load(tagger_path), config, num_cpus=1).best_plan().on_event_loop
    assert not Longer(Bundle.load(tagger_path), config, num_cpus=1).best_plan().on_event_loop
    threads = EngineConfig(arena=True, executor="threads")
    assert not Engine(Bundle.load(tagger_path), threads, num_cpus=1).best_plan().on_event_loop
