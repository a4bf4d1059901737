"""A served agent with keys among hostile callers: real Ray and HAProxy, requests byte by byte as no client would send them."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.ports import free_port
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.faults]
ROOT = Path(__file__).parents[3]
START_S = 150
KEY = "anna-0123456789abcdef"
SECRET = "Wilhelmina"  # in every text; no log may know it
BODY = json.dumps({"inputs": f"{SECRET} flew from Oslo to Lima."}).encode()
HOST = b"host: x\r\n"
SHOWN = b"x-api-key: " + KEY.encode() + b"\r\n"
PLAIN = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(BODY)
HEAD = b"POST / HTTP/1.1\r\n" + HOST + SHOWN + b"content-type: application/json\r\n"
GOOD = b"POST / HTTP/1.1\r\n" + HOST + SHOWN + PLAIN + b"\r\n" + BODY
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST


class Served(NamedTuple):
    """A running server."""

    url: str
    directory: Path
    process: subprocess.Popen[bytes]

    def send(self, data: bytes, *, keeps: bool = False) -> bytes:
        """All that comes back until the server closes, or for `keeps` falls silent."""
        place, answer = httpx.URL(self.url), b""
        data = data if keeps else data.replace(HOST, HOST + b"connection: close\r\n", 1)
        with socket.create_connection((place.host, place.port), timeout=2 if keeps else 10) as client:
            try:
                client.sendall(data)
                while part := client.recv(65_536):
                    answer += part
            except OSError:
                pass
        return answer


@pytest.fixture(scope="module")
def served(tagger_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "keys").write_text(f"anna: {KEY}\n")
    port = free_port()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "serving/run.py", f"bundle={tagger_path}", f"port={port}", "replicas.num_cpus=1", "replicas.max_replicas=1",
                "cluster.num_cpus=2", "cluster.dashboard=false", f"auth.keys_file={directory / 'keys'}", f"log.access={directory / 'access'}", "limits.max_body_s=2",
            ],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_S
        while "serving at" not in (directory / "log").read_text():
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.2)
        yield Served(f"http://127.0.0.1:{port}", directory, process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()


MALFORMED = {
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    "no request line": b"GARBAGE\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a header of 20 kB": HEALTH + b"x-a: " + b"a" * 20_000 + b"\r\n\r\n",
    "a path of 20 kB": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "2,000 headers": HEALTH + b"".join(b"x-%d: a\r\n" % number for number in range(2_000)) + b"\r\n",
    "endless headers": HEALTH + b"x-a: a\r\n" * 200_000,
    "a space in a header's name": HEALTH + b"x a: b\r\n\r\n",
    "a null byte in a header": HEALTH + b"x-a: a\0b\r\n\r\n",
    "a raw byte in the path": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a raw byte in the method": b"FO\x7fO / HTTP/1.1\r\n" + HOST + b"\r\n",
    "two hosts": HEALTH + b"host: y\r\n\r\n",
    "a URI of another host": b"GET http://evil.example/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a chunk of no size": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk too large for a number": HEAD
    + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 6\r\ncontent-length: 7\r\n\r\n0\r\n\r\nGG",
    "a negative length": HEAD + b"content-length: -1\r\n\r\n",
    "a length too large for a number": HEAD + b"content-length: 99999999999999999999999\r\n\r\n",
    "a transfer encoding beside chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer encoding": HEAD + b"content-length: 6\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\nG",
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_http_ends_at_haproxy_with_a_fixed_400(served: Served, case: str) -> None:
    """HAProxy 2.8 has this answer built in: no setting replaces it, and it says nothing of us."""
    answer = served.send(MALFORMED[case])
    status = b"HTTP/1.1 422 " if case == "a transfer encoding beside chunked" else b"HTTP/1.1 400 "
    assert answer == b"" or (answer.startswith(status) and answer.endswith(b"</body></html>\n")), answer
    assert len(answer) < 280
    assert httpx.get(served.url + "/health").status_code == 200


@pytest.mark.parametrize(
    ("name", "extra"),
    [(name, name.encode() + b": \xff\r\n") for name in (
        "x-request-id", "x-request-timeout-seconds", "x-request-disconnect-disabled", "serve_multiplexed_model_id", "x-session-id",
        "authorization", "traceparent",
    )],
)  # fmt: skip
def test_headers_that_ray_serve_cannot_read_are_refused_by_name(served: Served, name: str, extra: bytes) -> None:
    answer = served.send(GOOD.replace(PLAIN, PLAIN + extra))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["field"] == name


def test_a_caller_without_a_key_is_refused_and_counted(served: Served) -> None:
    assert httpx.post(served.url, json={"inputs": SECRET}).status_code == 401
    assert httpx.post(served.url, json={"inputs": SECRET}, headers={"x-api-key": "nobody"}).status_code == 403
    assert httpx.get(served.url + "/metrics").status_code == 401
    metrics = httpx.get(served.url + "/metrics", headers={"x-api-key": KEY}).text
    assert re.search(r'rejected_requests_total\{reason="forbidden",replica="\w+"\} 1\.0', metrics)


def test_pipelined_requests_are_answered_in_their_order_and_each_shows_its_own_key(served: Served) -> None:
    answers = served.send(GOOD + GOOD.replace(SHOWN, b"") + GOOD, keeps=True)
    assert re.findall(rb"HTTP/1.1 (\d{3})", answers) == [b"200", b"401", b"200"]


@pytest.mark.parametrize(
    "coding", [b"transfer-encoding: chunked", b"Transfer-Encoding : chunked", b"transfer-encoding:\tchunked"]
)
def test_a_request_cannot_be_smuggled_behind_a_length_that_another_reader_would_take(
    served: Served, coding: bytes
) -> None:
    hidden = b"GET /info HTTP/1.1\r\n" + HOST + SHOWN + b"\r\n"
    body = b"0\r\n\r\n" + hidden
    answers = served.send(HEAD + b"content-length: %d\r\n" % len(body) + coding + b"\r\n\r\n" + body, keeps=True)
    assert re.findall(rb"HTTP/1.1 (\d{3})", answers) == [b"400"]


def test_old_and_unusual_requests_are_answered_like_others(served: Served) -> None:
    old = GOOD.replace(b"HTTP/1.1", b"HTTP/1.0").replace(HOST, b"")
    chunks = HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    waiting = GOOD.replace(PLAIN, PLAIN + b"expect: 100-continue\r\n")
    own = GOOD.replace(b"POST /", b"POST http://x/")
    for request in (old, chunks, waiting, own):
        assert b" 200 OK" in served.send(request), request
    for request in (b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"):
        assert served.send(request).startswith(b"HTTP/1.1 404 ")
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZQ==\r\n\r\n"
    answer = served.send(b"GET / HTTP/1.1\r\n" + HOST + SHOWN + upgrade, keeps=True)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer


def test_slow_heads_and_slow_bodies_are_given_up_while_others_are_served(served: Served) -> None:
    place = httpx.URL(served.url)

    def drip(start: bytes, drop: bytes) -> tuple[float, bytes]:
        begin, answer = time.monotonic(), b""
        with socket.create_connection((place.host, place.port), timeout=0.5) as client:
            client.sendall(start)
            while time.monotonic() - begin < 120:  # until then the server has given it up, or never does
                try:
                    part = client.recv(65_536)
                    answer += part
                    if not part:
                        break
                except TimeoutError:
                    if answer:
                        break
                except OSError:
                    break
                if answer:
                    continue
                try:
                    client.sendall(drop)
                except OSError:
                    break
        return time.monotonic() - begin, answer

    def is_given_up(answer: bytes, error: str) -> bool:
        head, _, body = answer.partition(b"\r\n\r\n")
        return head.startswith(b"HTTP/1.1 408 ") and error in json.loads(body)["error"]

    with concurrent.futures.ThreadPoolExecutor(40) as callers:
        heads = [callers.submit(drip, HEALTH, b"x-a: a\r\n") for _ in range(20)]
        length = HEAD + b"content-length: 100000\r\n\r\n{"
        bodies = [callers.submit(drip, length, b" ") for _ in range(10)]
        long = [
            callers.submit(drip, length + b" " * 40_000, b" ") for _ in range(10)
        ]  # more than HAProxy's buffer holds
        assert served.send(GOOD).startswith(b"HTTP/1.1 200 ")
        for _, answer in (caller.result() for caller in long):
            assert is_given_up(answer, "within 2 s")  # limits.max_body_s
        for seconds, answer in (caller.result() for caller in bodies):
            assert seconds > 10  # HAProxy's timeout http-request is 15 s; the replica never knew of it
            assert is_given_up(answer, "was not there in time")
        assert max(head.result()[0] for head in heads) < 120
    metrics = httpx.get(served.url + "/metrics", headers={"x-api-key": KEY}).text
    assert re.search(r'rejected_requests_total\{reason="timeout",replica="\w+"\} 10\.0', metrics)


def test_the_settings_that_ray_has_no_name_for_reach_haproxy(served: Served) -> None:
    file = next(path for path in _haproxy_configs() if f":{httpx.URL(served.url).port}\n" in path.read_text())
    defaults = file.read_text().partition("\ndefaults\n")[2].partition("\nfrontend ")[0]
    assert "timeout http-request 15s" in defaults
    assert "option http-buffer-request" in defaults
    assert defaults.index("log global") < defaults.index("no log")
    assert "log-format-sd" not in file.read_text()  # a line for every request, which Ray would parse
    assert defaults.index("errorfile 503") < defaults.index("http-error status 503 content-type application/json")
    assert file.parent.parent.stat().st_mode & 0o777 == 0o700  # its admin socket is open to all who reach it


def test_a_replica_sends_an_answer_in_one_piece(served: Served) -> None:
    """So one that dies has answered wholly or not at all, and HAProxy asks another."""
    file = next(path for path in _haproxy_configs() if f":{httpx.URL(served.url).port}\n" in path.read_text())
    replica = re.search(r"^\s*server \S*Agent\S* (\S+):(\d+) ", file.read_text(), flags=re.MULTILINE)
    pieces = []
    for _ in range(20):
        with socket.create_connection((replica[1], int(replica[2])), timeout=10) as caller:
            caller.sendall(GOOD)
            pieces.append(caller.recv(65_536))
    assert all(SECRET.encode() in piece for piece in pieces), pieces


def test_predictions_pass_ray_serve_by(served: Served) -> None:
    """Seen by the ids of requests: those of Ray are UUIDs with dashes. The first request shows where the agent lies."""
    answers = [served.send(GOOD).lower() for _ in range(3)]
    assert all(SECRET.lower().encode() in answer for answer in answers)
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", answers[-1]), answers[-1]


def _access(served: Served) -> list[dict[str, Any]]:
    """The lines of the access log that are whole."""
    texts = [file.read_text() for file in (served.directory / "access").glob("*")]
    return [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_logs_know_ids_and_keys_names_but_no_text_and_no_key(served: Served) -> None:
    served.send(GOOD.replace(PLAIN, PLAIN + b"x-request-id: one-of-many\r\n"))
    served.send(GOOD.replace(b'{"inputs"', b'{"INPUTS"'))
    (mine,) = until(lambda: [line for line in _access(served) if line["id"] == "one-of-many"])
    assert (mine["key"], mine["client"], mine["status"], mine["texts"]) == ("anna", "127.0.0.1", 200, 1)
    session = next(line for line in _sessions(served.process.pid))
    files = [
        *(served.directory / "access").glob("*"),
        served.directory / "log",
        *session.rglob("*.log"),
        *session.rglob("*.err"),
        *session.rglob("*.out"),
    ]
    assert any("serve" in file.parts for file in files)
    for file in files:
        content = file.read_bytes()
        assert SECRET.encode() not in content, file
        assert KEY.encode() not in content, file


def test_a_flood_leaves_the_server_as_it_was(served: Served) -> None:
    """Thousands of bad requests: no 5xx, and the replica grows by no more than noise."""
    pid = _replica(served.process.pid)
    bodies = [
        b"[" * 100_000,
        b'{"inputs": "a", "' + b"k" * 100_000 + b'": 1}',
        b"\xff" * 100_000,
        b'{"inputs": ' + b"9" * 100_000 + b"}",
    ]

    def flood(count: int) -> set[int]:
        with httpx.Client(base_url=served.url, timeout=30) as client:
            headers = [
                {"x-api-key": key, "content-type": "application/json", "x-a": "a" * 8_000} for key in (KEY, "nobody")
            ]
            return {
                client.post("/", content=bodies[n % 4], headers=headers[n % 5 == 0]).status_code for n in range(count)
            }

    assert flood(300) == {400, 403, 422}
    before = _resident_bytes(pid)
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        assert set().union(*callers.map(flood, [400] * 4)) == {400, 403, 422}
    assert _resident_bytes(pid) - before < 16 * 1024 * 1024  # 1,600 of these bodies are 160 MB
    assert served.send(GOOD).startswith(b"HTTP/1.1 200 ")


def _haproxy_configs() -> list[Path]:
    return list(Path("/tmp").glob("ba-*/*/haproxy.cfg"))


def _sessions(pid: int) -> list[Path]:
    return [path / "logs" for path in Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").glob(f"session_*_{pid}")]


def _replica(driver: int) -> int:
    """The replica among the descendants of the process that started Ray."""
    parents, replicas = {}, []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica"):
                replicas.append(int(entry.name))
    for replica in replicas:
        ancestor = replica
        while ancestor not in (0, driver):
            ancestor = parents.get(ancestor, 0)
        if ancestor == driver:
            return replica
    raise AssertionError("no replica found")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
