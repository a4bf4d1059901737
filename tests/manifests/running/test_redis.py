"""The Redis of k8s/05-redis.yaml, its own command, configuration and probe run with a real redis-server (Debian's)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.world import K8S, load_files
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.skipif(
    not (shutil.which("redis-server") and shutil.which("redis-cli")), reason="no redis-server on PATH"
)
PASSWORD = secrets.token_hex(32)


def _container() -> Any:
    return load_files(K8S).get("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"][0]


def _environment(port: int, password: str = PASSWORD) -> dict[str, str]:
    (variable,) = _container()["env"]
    return {"PATH": os.environ["PATH"], variable["name"]: password, "REDISCLI_PORT": str(port)}


@contextmanager
def _running(place: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Starts it as the pod does, in a directory of this machine and at a free port."""
    text = load_files(K8S).get("ConfigMap", "redis")["data"]["redis.conf"]
    (place / "redis.conf").write_text(text.replace("dir /data", f"dir {place}") + f"port {port}\nbind 127.0.0.1\n")
    container = _container()
    (script,) = container["args"]
    command = [*container["command"], script.replace("/etc/redis/redis.conf", str(place / "redis.conf"))]
    with subprocess.Popen(command, env=_environment(port), stdout=subprocess.DEVNULL) as server:
        try:
            assert until(lambda: _probe(port))
            yield server
        finally:
            server.kill()


def _probe(port: int, password: str = PASSWORD) -> bool:
    command = [part.replace("redis-cli", f"redis-cli -p {port}") for part in _container()["readinessProbe"]["exec"]["command"]]  # fmt: skip
    return subprocess.run(command, env=_environment(port, password), capture_output=True, check=False).returncode == 0


def _ask(port: int, *command: str, password: str = PASSWORD) -> str:
    done = subprocess.run(["redis-cli", "-p", str(port), *command], env=_environment(port, password), capture_output=True, text=True, check=False)  # fmt: skip
    return done.stdout + done.stderr


def test_it_answers_its_probe_and_nobody_without_the_password(tmp_path: Path) -> None:
    port = free_port()
    with _running(tmp_path, port) as server:
        assert _probe(port)
        assert not _probe(port, "wrong")
        assert "NOAUTH" in _ask(port, "get", "x", password="")
        assert PASSWORD not in Path(f"/proc/{server.pid}/cmdline").read_text()


def test_it_leaves_at_sigterm_and_keeps_what_was_written(tmp_path: Path) -> None:
    port = free_port()
    with _running(tmp_path, port) as server:
        assert _ask(port, "set", "state", "kept").strip() == "OK"
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=10)
    with _running(tmp_path, port):
        assert _ask(port, "get", "state").strip() == "kept"
