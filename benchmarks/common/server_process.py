"""Starts, measures and stops a server with all its processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.common.machine import marked_processes, memory_bytes
from benchmarks.rivals.roster import Entrant

ROOT = Path(__file__).resolve().parents[2]
_STOP_S = 60
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_MARK = "BERT_AGENT_BENCHMARK"
# Components of Ray Serve by a part of their process title; all others count as "server".
_PARTS = {
    "ServeReplica": "replica",
    "haproxy": "haproxy",
    "ServeController": "controller",
    "ProxyActor": "proxy",
    "HAProxyManager": "haproxy manager",
    "raylet/raylet": "raylet",
    "gcs_server": "gcs",
    "dashboard": "dashboard",
    "runtime_env": "agents",
    "log_monitor": "log monitor",
    "serving/run.py": "run.py",
}


class ServerError(Exception):
    """A server did not start, or answered wrongly."""


class Server:
    """A running server.

    Args:
        entrant: What to run.
        python: The interpreter of its environment.
        bundle: The agent to serve.
        place: A directory for its log and files.
        root: The checkout whose code runs.
    """

    def __init__(self, entrant: Entrant, python: str, bundle: Path, place: Path, *, root: Path = ROOT) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.entrant, self._mark, self._log = entrant, f"{entrant.name}-{uuid.uuid4()}", place / "log"
        command = [part.format(bundle=bundle, port=self.port, place=place) for part in entrant.command]
        environment = {"BUNDLE": str(bundle), "PORT": str(self.port), "PLACE": str(place), _MARK: self._mark}
        environment |= {"SETTINGS": json.dumps(dict(entrant.settings)), "PYTHONPATH": str(root)}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OMP_"))}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, *command],
                cwd=root,
                env=inherited | environment | dict(entrant.environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check_alive(self) -> None:
        """Raises ServerError, with the end of its log, if it has ended."""
        if self._process.poll() is not None:
            raise ServerError(f"ended with status {self._process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The end of its log, on one line."""
        lines = _COLOURS.sub("", self._log.read_text(errors="replace")).strip().splitlines()
        return " / ".join(lines[-5:])[-500:].replace("|", "/")

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        return list(marked_processes(self._mark))

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds so far, by component of the server; on Linux as the scheduler counts them (schedstat)."""
        used: Counter[str] = Counter()
        for process in self.processes():
            with suppress(psutil.Error, OSError):
                used[_part(" ".join(process.cmdline()))] += _cpu_seconds(process)
        return dict(used)

    def memory_bytes(self) -> int:
        """Memory of all its processes; shared pages count once."""
        return sum(map(memory_bytes, self.processes()))

    def stop(self) -> None:
        """Terminates it, then kills the processes that are left."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        _, alive = psutil.wait_procs(self.processes(), timeout=2)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=5)


@contextmanager
def running(entrant: Entrant, python: str, bundle: Path, *, root: Path = ROOT) -> Iterator[Server]:
    """Runs a server within the block."""
    place = Path(tempfile.mkdtemp(prefix="bench-"))
    server = Server(entrant, python, bundle, place, root=root)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)


def _cpu_seconds(process: psutil.Process) -> float:
    tasks = Path(f"/proc/{process.pid}/task")
    if tasks.is_dir():
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9
    times = process.cpu_times()
    return float(times.user + times.system)


def _part(title: str) -> str:
    return next((part for text, part in _PARTS.items() if text in title), "server")
