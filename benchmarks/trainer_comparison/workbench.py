"""Measures contestants one at a time, each in a new process, and stores the results."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent.data import DataConfig
from agent.errors import TrainingError
from benchmarks.common.machine import busy_seconds
from benchmarks.trainer_comparison.base import Contestant

LOOK_EVERY_S = 0.5
PAUSE_S = 2.0  # for what the process before has left (Ray's own processes)
QUIET = 0.1  # a larger share of the cores used by other processes spoils a measurement
FOREIGN = re.compile(r"(OMP|GOMP|KMP|MKL|RAY)_")  # settings that contestants set themselves

Found = dict[str, Any]


class Workbench:
    """Measures contestants and stores the results in a directory.

    Args:
        directory: Holds the results; what is there is not measured again.
        program: Takes `measure=FILE` with what to measure, and writes the result beside that file.
        accept_doubtful: Whether measurements on a busy machine count.
    """

    def __init__(self, directory: Path, program: Path, *, accept_doubtful: bool) -> None:
        self._directory, self._program, self._accept_doubtful = directory, program, accept_doubtful
        directory.mkdir(parents=True, exist_ok=True)

    def found(self, contestant: Contestant, data: DataConfig, repeat: int = 0) -> Found | None:
        """The result of an earlier run of the same measurement, if it counts."""
        file = self._file(contestant, data, repeat, "json")
        kept: Found | None = json.loads(file.read_text()) if file.is_file() else None
        return kept if kept and (self._accept_doubtful or not doubt(kept)) else None

    def run(self, contestant: Contestant, data: DataConfig, repeat: int = 0) -> Found:
        """Measures, unless there is a result.

        Raises:
            TrainingError: The process failed.
        """
        if known := self.found(contestant, data, repeat):
            return known
        before = others_before()
        asked, answer, log = (self._file(contestant, data, repeat, kind) for kind in ("order", "answer", "log"))
        asked.write_text(json.dumps({"order": order(contestant, data), "answer": str(answer)}))
        started = time.perf_counter()
        watched = self._start(contestant, asked, log)
        found = {
            "order": order(contestant, data),
            "result": json.loads(answer.read_text()),
            "others_before": before,
            **watched,
            "process_seconds": time.perf_counter() - started,
        }
        asked.unlink()
        answer.unlink()
        self._file(contestant, data, repeat, "json").write_text(json.dumps(found) + "\n")
        print(f"measured: {contestant.name} in {found['process_seconds']:.0f} s{doubt(found)}", flush=True)
        return found

    def _start(self, contestant: Contestant, asked: Path, log: Path) -> Found:
        environment = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        monitor = ProcessMonitor()
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, str(self._program), f"measure={asked}"],
                env=environment | {"TOKENIZERS_PARALLELISM": "false"} | contestant.environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
            monitor.wait(process)
        if process.returncode:
            tail = " ".join(log.read_text().strip().splitlines()[-1:])
            raise TrainingError(
                f"{contestant.name} ended with status {process.returncode} ({tail})", remedy=f"read {log}"
            )
        return monitor.figures()

    def _file(self, contestant: Contestant, data: DataConfig, repeat: int, kind: str) -> Path:
        digest = hashlib.sha256(json.dumps(order(contestant, data)).encode()).hexdigest()[:12]
        return self._directory / f"{contestant.kind}-{digest}-{repeat}.{kind}"


def order(contestant: Contestant, data: DataConfig) -> dict[str, Any]:
    """All that determines a measurement."""
    return {"contestant": contestant.model_dump(mode="json"), "data": data.model_dump(mode="json")}


class ProcessMonitor:
    """Measures memory and CPU time of a process tree, and the CPU time of other processes meanwhile."""

    def __init__(self) -> None:
        self._peaks = {"together": 0, "largest": 0}
        self._used: dict[int, float] = {}  # CPU seconds of each process, when last seen
        self._begun, self._busy = time.perf_counter(), busy_seconds()

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for the process; terminates it if this program is interrupted."""
        try:
            while process.poll() is None:
                self._look(process.pid)
                time.sleep(LOOK_EVERY_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def figures(self) -> dict[str, Any]:
        """`memory`, peaks in bytes, where shared pages count in each process; `others_during`, a share of all cores."""
        wall = time.perf_counter() - self._begun
        foreign = busy_seconds() - self._busy - sum(self._used.values())
        return {"memory": self._peaks, "others_during": max(0.0, foreign / wall / (os.cpu_count() or 1))}

    def _look(self, root: int) -> None:
        import psutil

        sizes = [0]
        with contextlib.suppress(psutil.NoSuchProcess):  # one may end while we look
            for process in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
                times = process.cpu_times()
                self._used[process.pid] = times.user + times.system
                sizes.append(process.memory_info().rss)
        self._peaks["together"] = max(self._peaks["together"], sum(sizes))
        self._peaks["largest"] = max(self._peaks["largest"], *sizes)


def others_before() -> float:
    """The share of all cores that other processes use, after a pause in which earlier processes can end."""
    time.sleep(PAUSE_S)
    started, busy = time.perf_counter(), busy_seconds()
    time.sleep(PAUSE_S)
    return (busy_seconds() - busy) / (time.perf_counter() - started) / (os.cpu_count() or 1)


def doubt(found: Found) -> str:
    """A warning for a measurement on a busy machine; empty for a quiet one."""
    shares = found["others_before"], found["others_during"]
    if max(shares) <= QUIET:
        return ""
    return " (DOUBTFUL: others took {:.0%} of this machine before, {:.0%} meanwhile)".format(*shares)
