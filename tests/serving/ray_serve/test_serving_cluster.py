"""A served agent on two raylets: a node is lost, comes back, a replica is taken away; no accepted request is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port
from tests.serving.tiny import TEXTS
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.faults, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[3]


@dataclass
class TwoNodes:
    """`tests.serving.ray_serve.two_nodes` as a process."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def order(self, line: str) -> None:
        print(line, file=self.process.stdin, flush=True)
        self.wait_done()

    def wait_done(self) -> None:
        for line in self.process.stdout:
            if line.strip() == "done":
                return
        raise AssertionError(self.log.read_text())

    def replicas(self) -> set[str]:
        """Those that answered the last scrape."""
        text = httpx.get(self.url + "/metrics", timeout=20).text
        return set(re.findall(r'^bert_agent_info\{.*replica="(\w+)"', text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def two_nodes(tagger_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    port = free_port()
    mark, log = f"bert-agent-{uuid.uuid4()}", tmp_path_factory.mktemp("two-nodes") / "log"
    own = {"BERT_AGENT_TEST": mark, "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | own
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.ray_serve.two_nodes", str(tagger_path), str(port)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
    nodes = TwoNodes(process, f"http://127.0.0.1:{port}", log)
    try:
        nodes.wait_done()
        yield nodes
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue


def test_any_replica_shows_the_metrics_of_all(two_nodes: TwoNodes) -> None:
    for _ in range(5):
        assert len(two_nodes.replicas()) == 2
    before = _texts(two_nodes)
    for _ in range(10):
        assert httpx.post(two_nodes.url, json={"inputs": TEXTS}, timeout=20).status_code == 200
    assert _texts(two_nodes) == before + 10 * len(TEXTS)
    text = httpx.get(two_nodes.url + "/metrics").text
    assert text.count("# TYPE bert_agent_texts_total counter") == 1


def test_a_lost_node_loses_no_request_and_its_replica_comes_back_with_another(two_nodes: TwoNodes) -> None:
    with _callers(two_nodes.url) as answers:
        time.sleep(1)
        two_nodes.order("lose")
        assert until(lambda: len(two_nodes.replicas()) == 1)
        two_nodes.order("join")
        assert until(lambda: len(two_nodes.replicas()) == 2)
        time.sleep(1)
    assert len(answers) > 50
    assert set(answers) == {200}


def test_scaling_down_loses_no_request(two_nodes: TwoNodes) -> None:
    with _callers(two_nodes.url, pause_s=0.05) as answers:
        two_nodes.order("shrink")
        assert until(lambda: len(two_nodes.replicas()) == 1)
        time.sleep(1)
    assert len(answers) > 50
    assert set(answers) == {200}


@contextmanager
def _callers(url: str, *, pause_s: float = 0.0) -> Iterator[list[int | str]]:
    """Four callers that ask again and again inside the block; their answers' statuses."""
    answers: list[int | str] = []
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                try:
                    answers.append(client.post(url, json={"inputs": TEXTS[0]}).status_code)
                except httpx.HTTPError as error:
                    answers.append(repr(error))
                time.sleep(pause_s)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _texts(nodes: TwoNodes) -> float:
    text = httpx.get(nodes.url + "/metrics", timeout=20).text
    return sum(map(float, re.findall(r"^bert_agent_texts_total\{.*\} (.*)$", text, flags=re.MULTILINE)))
