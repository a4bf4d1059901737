"""Measures contestants one at a time, each in a fresh process, and keeps what came of it. Knows nothing of what they do."""

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
from benchmarks.trainer_comparison.base import Contestant

LOOK_EVERY_S = 0.5
PAUSE_S = 2.0  # for what the process before has left (Ray's own processes)
QUIET = 0.1  # more of the cores than this in other hands spoils a measurement
FOREIGN = re.compile(r"(OMP|GOMP|KMP|MKL|RAY)_")  # what would decide for the contestants how they run

Found = dict[str, Any]


class Workbench:
    """A directory of results.

    Args:
        directory: Where they are kept; what stands there is not measured again.
        program: Takes `measure=FILE`, the file that says what to measure, and writes the result beside it.
        accept_doubtful: Whether what was measured on a busy machine counts.
    """

    def __init__(self, directory: Path, program: Path, *, accept_doubtful: bool) -> None:
        self._directory, self._program, self._accept_doubtful = directory, program, accept_doubtful
        directory.mkdir(parents=True, exist_ok=True)

    def found(self, contestant: Contestant, data: DataConfig, repeat: int = 0) -> Found | None:
        """What an earlier run of exactly this has left, if it counts."""
        file = self._file(contestant, data, repeat, "json")
        kept: Found | None = json.loads(file.read_text()) if file.is_file() else None
        return kept if kept and (self._accept_doubtful or not doubt(kept)) else None

    def run(self, contestant: Contestant, data: DataConfig, repeat: int = 0) -> Found:
        """Measures, unless it is known.

        Raises:
            TrainingError: The process failed.
        """
        if known := self.found(contestant, data, repeat):
            return known
        before = others_before()
        asked, answer, log = (self._file(contestant, data, repeat, kind) for kind in ("order", "answer", "log"))
        asked.write_text(json.dumps({"order": order(contestant, data), "answer": str(answer)}))
        begun = time.perf_counter()
        watched = self._start(contestant, asked, log)
        found = {
            "order": order(contestant, data),
            "result": json.loads(answer.read_text()),
            "others_before": before,
            **watched,
            "process_seconds": time.perf_counter() - begun,
        }
        asked.unlink()
        answer.unlink()
        self._file(contestant, data, repeat, "json").write_text(json.dumps(found) + "\n")
        print(f"measured: {contestant.name} in {found['process_seconds']:.0f} s{doubt(found)}", flush=True)
        return found

    def _start(self, contestant: Contestant, asked: Path, log: Path) -> Found:
        environment = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        watch = Watch()
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, str(self._program), f"measure={asked}"],
                env=environment | {"TOKENIZERS_PARALLELISM": "false"} | contestant.environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
            watch.wait(process)
        if process.returncode:
            tail = " ".join(log.read_text().strip().splitlines()[-1:])
            raise TrainingError(
                f"{contestant.name} ended with status {process.returncode} ({tail})", remedy=f"read {log}"
            )
        return watch.figures()

    def _file(self, contestant: Contestant, data: DataConfig, repeat: int, kind: str) -> Path:
        digest = hashlib.sha256(json.dumps(order(contestant, data)).encode()).hexdigest()[:12]
        return self._directory / f"{contestant.kind}-{digest}-{repeat}.{kind}"


def order(contestant: Contestant, data: DataConfig) -> dict[str, Any]:
    """All that decides what is measured."""
    return {"contestant": contestant.model_dump(mode="json"), "data": data.model_dump(mode="json")}


class Watch:
    """Looks at a process and all below it while it runs, and at what others take of the machine meanwhile."""

    def __init__(self) -> None:
        self._peaks = {"together": 0, "largest": 0}
        self._used: dict[int, float] = {}  # CPU seconds of each process, when last seen
        self._begun, self._busy = time.perf_counter(), busy_seconds()

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until its end; ends it if this program is interrupted, since nothing may run on beside the next measurement."""
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


def busy_seconds() -> float:
    """CPU seconds that all cores together have worked, or were kept from it by another guest of the host."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def others_before() -> float:
    """The share of all cores that others take, seen over a pause in which what ended before can clear away."""
    time.sleep(PAUSE_S)
    begun, busy = time.perf_counter(), busy_seconds()
    time.sleep(PAUSE_S)
    return (busy_seconds() - busy) / (time.perf_counter() - begun) / (os.cpu_count() or 1)


def doubt(found: Found) -> str:
    """What to think of a measurement on a machine that was so busy."""
    shares = found["others_before"], found["others_during"]
    if max(shares) <= QUIET:
        return ""
    return " (DOUBTFUL: others took {:.0%} of this machine before, {:.0%} meanwhile)".format(*shares)
