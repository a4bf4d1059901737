"""A cluster of two raylets on this machine, with token authentication, as on a cluster of machines: shared by the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.ray_serve.haproxy import _PLACES, _PORTS, _RETRIES, SWITCHES
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
BINARIES = Path(sys.executable).parent
# By default every node on a machine takes the same ones.
FREE_PORTS = ("--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0")


@dataclass(frozen=True)
class Cluster:
    """Where its dashboard listens, and the environment of who may use it."""

    address: str
    environment: dict[str, str]

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}

    def run(self, *command: str | Path, timeout: int = 280) -> subprocess.CompletedProcess[str]:
        """A command of Ray's (`job submit ...`, `deploy ...`) against this cluster, given from the repository."""
        program = BINARIES / ("serve" if command[0] in ("deploy", "status") else "ray")
        return subprocess.run([program, *command], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)  # fmt: skip

    def served(self) -> str:
        """What Ray Serve says of its applications, as `serve status` shows it."""
        request = urllib.request.Request(f"{self.address}/api/serve/applications/", headers=self.authorization)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read(), "utf-8")


def wait_for(url: str, headers: dict[str, str], seconds: float = 60) -> int:
    """The status of the first answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(url)


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Starts a head and a worker of two CPUs each; ends with everything that they started."""
    gcs, dashboard = free_port(), free_port()
    short = Path(
        tempfile.mkdtemp(prefix="ba-", dir="/tmp")
    )  # paths of sockets end at 97 bytes for HAProxy, at 107 for Ray
    environment = _environment(short)
    cluster = Cluster(f"http://127.0.0.1:{dashboard}", environment)
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}", f"--temp-dir={short / 'r'}"]  # fmt: skip
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, short, ignore_errors=True)
        log = stack.enter_context((short / "log").open("w+"))
        node = stack.enter_context(_raylet(environment, log, *head))
        try:
            wait_for(f"{cluster.address}/api/version", cluster.authorization, seconds=120)
        except TimeoutError:
            log.seek(0)
            raise TimeoutError(f"no answer of the head, which says: {log.read()[-2000:]}") from None
        stack.enter_context(_raylet(environment, log, f"--address=127.0.0.1:{gcs}"))
        yield cluster
        log.seek(0)
        assert node.poll() is None, f"the head ended by itself and says: {log.read()[-2000:]}"


def _environment(haproxy: Path) -> dict[str, str]:
    """As the manifests set it; the places and ports of HAProxy are free ones, since other tests run one too."""
    own = {name: str(haproxy / file) for name, file in _PLACES.items()}
    own |= {name: str(free_port()) for name in _PORTS}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    quick = {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_prestart_worker_first_driver": "0",
    }
    path = {"PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | token | quick | path | SWITCHES | _RETRIES | own


@contextmanager
def _raylet(environment: dict[str, str], log: IO[str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [BINARIES / "ray", "start", "--block", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats", *FREE_PORTS, *arguments]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    ) as node:
        try:
            yield node
        finally:
            node.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                node.wait(timeout=40)
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
