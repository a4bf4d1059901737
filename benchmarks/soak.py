"""Does the server keep its word when things go wrong? Overload, killed replicas, new versions, idle and slow clients, time.

    python benchmarks/soak.py [bundle=DIR] [stages=[overload,killed,rollout,idle,mixed,drained]] [mixed_s=600]

Starts `serving/run.py` with two replicas of one core on this machine, provokes each fault under load, and writes
benchmarks/results/soak.json and a line for each aim. Needs a quiet machine for its latencies, not for its counts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import uvloop  # noqa: E402
from pydantic import Field  # noqa: E402

from agent import corpus  # noqa: E402
from agent.bundle import Bundle, write_bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from benchmarks.common.aim import Aim  # noqa: E402
from benchmarks.common.load_generator import Answer, LoadGenerator  # noqa: E402
from cluster.process_cleanup import find_marked, kill_marked  # noqa: E402

Stage = Literal["overload", "killed", "rollout", "idle", "mixed", "drained"]
ALL: tuple[Stage, ...] = ("overload", "killed", "rollout", "idle", "mixed", "drained")
_START_S = 180
_REPLICA = "ServeReplica:"
Figures = dict[str, Any]


class SoakConfig(Config):
    """What is provoked, and for how long."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent to serve; `make demo` makes this one")
    stages: tuple[Stage, ...] = Field(ALL, description="what to provoke; drained stops the server and comes last")
    result: str = Field(str(ROOT / "benchmarks/results/soak.json"), description="JSON file to write")
    peak_s: float = Field(15, gt=0, description="seconds for which the server's peak is measured")
    overload_s: float = Field(60, gt=0, description="seconds of twice the peak")
    fault_s: float = Field(20, gt=0, description="seconds of load around each fault")
    mixed_s: float = Field(600, gt=0, description="seconds of mixed load")
    idle_connections: int = Field(10_000, ge=1, description="connections that are opened and send nothing")
    in_flight: int = Field(32, ge=1, description="callers of a closed loop")


class Server:
    """`serving/run.py` as a process; all that descends from it carries a mark in its environment."""

    def __init__(self, bundle: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.port, self.url, self.bundle, self._mark = port, f"http://127.0.0.1:{port}", bundle, f"soak-{uuid.uuid4()}"
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - lives as long as the server
        self.process = subprocess.Popen(
            [
                sys.executable, "serving/run.py", f"bundle={bundle}", f"port={port}", "cluster.num_cpus=2",
                "replicas.num_cpus=1", "replicas.min_replicas=2", "replicas.max_replicas=2",
                "rollout.poll_s=0.5", "rollout.canary_s=3",
            ],
            cwd=ROOT, env=os.environ | {"BERT_AGENT_SOAK": self._mark}, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def wait(self) -> None:
        """Until it serves."""
        deadline = time.monotonic() + _START_S
        while "serving at" not in (log := Path(self._log.name).read_text()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: the server did not start\n{log}")
            time.sleep(0.5)

    def processes(self) -> dict[int, str]:
        """Titles of all its living processes."""
        found = {}
        for pid in find_marked(self._mark):
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def replicas(self) -> list[int]:
        """Process ids of the replicas that serve."""
        return sorted(pid for pid, title in self.processes().items() if _REPLICA in title)

    def use(self) -> dict[str, int]:
        """Memory and descriptors of the replicas and of HAProxy now."""
        pids = [pid for pid, title in self.processes().items() if _REPLICA in title or "haproxy" in title]
        return {"kib": sum(map(_rss_kib, pids)), "descriptors": sum(map(_descriptors, pids))}

    def end(self) -> None:
        """Stops it, and whatever is left of it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(90)
        kill_marked(self._mark)


def main(config: SoakConfig) -> None:
    """Provokes all that is asked for, one after the other, on one server."""
    texts = [sentence.text for sentence in corpus.generate(sizes={"test": 500})["test"]]
    with _served(Path(config.bundle)) as server:
        soak = Soak(config, server, LoadGenerator(server.port, texts), texts)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(soak.run())
    Path(config.result).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for aim in aims(result):
        print(aim)


class Soak:
    """The faults, in order, with what they need of each other.

    Args:
        config: What to provoke.
        server: A server that serves.
        load: LoadGenerator of it.
        texts: What they send.
    """

    def __init__(self, config: SoakConfig, server: Server, load: LoadGenerator, texts: list[str]) -> None:
        self._config, self._server, self._load, self._texts = config, server, load, texts
        self._peak = 0.0

    async def run(self) -> Figures:
        """Figures by stage."""
        peak = await self._load.closed_loop(self._config.peak_s, self._config.in_flight)
        self._peak = sum(answer.status == 200 for answer in peak) / self._config.peak_s
        result: Figures = {"peak": {"requests_per_s": self._peak, **_summary(peak)}}
        for stage in ALL:
            if stage in self._config.stages:
                result[stage] = await getattr(self, f"_{stage}")()
                print(f"{stage}: {json.dumps(result[stage])}", flush=True)
        return result

    async def _overload(self) -> Figures:
        await self._load.open_loop(
            self._config.fault_s, 2 * self._peak
        )  # memory that a first overload takes is kept for the next
        before, calm = self._server.use(), await self._load.open_loop(self._config.fault_s, 0.7 * self._peak)
        answers = await self._load.open_loop(self._config.overload_s, 2 * self._peak)
        return {"calm": _summary(calm), **_summary(answers), "before": before, "after": self._server.use()}

    async def _killed(self) -> Figures:
        """SIGKILL to one of two replicas in the middle of the load."""
        victim = self._server.replicas()[0]

        async def kill() -> None:
            await asyncio.sleep(self._config.fault_s / 4)
            os.kill(victim, signal.SIGKILL)

        answers, _ = await asyncio.gather(self._load.open_loop(self._config.fault_s, 0.3 * self._peak), kill())
        deadline = time.monotonic() + 60
        while len(self._server.replicas()) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        return {**_summary(answers), "replicas_afterwards": len(self._server.replicas())}

    async def _rollout(self) -> Figures:
        """A damaged version, then a good one, under load."""
        digests = []

        async def replace() -> None:
            await asyncio.sleep(2)
            manifest = self._server.bundle / "bundle.json"
            good = manifest.read_bytes()
            manifest.write_bytes(good.replace(b'"sha256": "', b'"sha256": "0', 1))
            await asyncio.sleep(3)
            digests.append(await asyncio.to_thread(_served_digest, self._server.url))
            manifest.write_bytes(good)
            with write_bundle(self._server.bundle, overwrite=True) as draft:
                await asyncio.to_thread(_renew, self._server.bundle, draft.path)
            digests.append(Bundle.load(self._server.bundle).digest)

        before = _served_digest(self._server.url)
        answers, _ = await asyncio.gather(self._load.open_loop(self._config.fault_s, 0.3 * self._peak), replace())
        after = {_served_digest(self._server.url) for _ in range(20)}
        return {
            **_summary(answers),
            "damaged_version_served": digests[0] != before,
            "new_version_served": after == {digests[1]},
        }

    async def _idle(self) -> Figures:
        """Connections that send nothing or a byte now and then, beside the load."""
        calm = await self._load.open_loop(self._config.fault_s, 0.3 * self._peak)
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        writers = []
        for _ in range(min(self._config.idle_connections, int(room / 2.6))):  # HAProxy needs 2.5 descriptors for each
            with suppress(OSError):
                writers.append((await asyncio.open_connection("127.0.0.1", self._server.port))[1])
        for number, writer in enumerate(writers[: len(writers) // 10]):
            writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n" + b"\r\n" * (number % 2) + b"{")
        answers = await self._load.open_loop(self._config.fault_s, 0.3 * self._peak)
        for writer in writers:
            writer.close()
        return {"opened": len(writers), "calm": _summary(calm), **_summary(answers)}

    async def _mixed(self) -> Figures:
        """Singles, batches and callers who hang up, for minutes; memory, descriptors and latency at ten points."""
        points, answers = [], []
        for _ in range(10):
            began = await asyncio.gather(
                self._load.open_loop(self._config.mixed_s / 10, 0.3 * self._peak),
                self._batches(self._config.mixed_s / 10),
            )
            points.append({**self._server.use(), **_summary(began[0])})
            answers += began[0]
        return {"points": points, **_summary(answers)}

    async def _batches(self, seconds: float) -> None:
        """Requests of 64 texts, one a second; every second caller hangs up after 50 ms."""
        end, patient, hasty = (
            time.monotonic() + seconds,
            self._load,
            LoadGenerator(self._server.port, self._texts, timeout_s=0.05),
        )
        for callers in itertools.cycle((patient, hasty)):
            if time.monotonic() > end:
                return
            await callers.ask(64)
            await asyncio.sleep(1)

    async def _drained(self) -> Figures:
        """SIGTERM under load: what was accepted is answered; what comes later is refused at the door."""
        stopped: list[float] = []

        async def stop() -> None:
            await asyncio.sleep(self._config.fault_s / 4)
            stopped.append(time.monotonic())
            self._server.process.send_signal(signal.SIGTERM)

        answers, _ = await asyncio.gather(self._load.open_loop(self._config.fault_s / 2, 0.3 * self._peak), stop())
        code = await asyncio.to_thread(self._server.process.wait, 120)
        accepted = [answer for answer in answers if answer.started < stopped[0]]
        deadline = time.monotonic() + 10
        while self._server.processes() and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return {
            "accepted": _summary(accepted),
            "exit_status": code,
            "left_running": sorted(self._server.processes().values()),
        }


def aims(result: Figures) -> list[Aim]:
    """What was hoped for."""
    found = []

    def add(stage: Stage, name: str, measured: Any, bound: float, *, at_least: bool = False) -> None:
        known = measured(result[stage]) if stage in result else None
        found.append(Aim(f"{stage}: {name}", known, bound, at_least=at_least))

    add("overload", "answers other than 200 and 429", lambda x: x["failed"], 0)
    add("overload", "p99 of accepted requests, s", lambda x: x["p99_s"], 1.5)
    add("overload", "memory afterwards over before", lambda x: x["after"]["kib"] / x["before"]["kib"], 1.15)
    add("killed", "failed requests", lambda x: x["failed"], 0)
    add("killed", "replicas afterwards", lambda x: x["replicas_afterwards"], 2, at_least=True)
    add("rollout", "failed or refused requests", lambda x: x["failed"] + x["refused"], 0)
    add("rollout", "damaged versions served", lambda x: int(x["damaged_version_served"]), 0)
    add("rollout", "new version served", lambda x: int(x["new_version_served"]), 1, at_least=True)
    add("idle", "failed requests", lambda x: x["failed"], 0)
    add("idle", "p50 over that without", lambda x: x["p50_s"] / x["calm"]["p50_s"], 1.5)
    add("mixed", "failed requests", lambda x: x["failed"], 0)
    add(
        "mixed",
        "memory of the last tenth over the third",
        lambda x: x["points"][9]["kib"] / x["points"][2]["kib"],
        1.05,
    )
    add("mixed", "descriptors, last tenth over third", lambda x: _grown(x["points"], "descriptors"), 1.1)
    add("mixed", "p50, last tenths over first", lambda x: _later(x["points"]), 1.25)
    add("drained", "accepted requests lost", lambda x: x["accepted"]["failed"], 0)
    add("drained", "processes left", lambda x: len(x["left_running"]), 0)
    return found


def _grown(points: list[Figures], name: str) -> float:
    return float(points[9][name] / points[2][name])


def _later(points: list[Figures]) -> float:
    first, last = ([point["p50_s"] for point in part] for part in (points[:3], points[-3:]))
    return statistics.median(last) / statistics.median(first)


def _summary(answers: list[Answer]) -> Figures:
    """Counts by status and the latency of what was answered, in seconds."""
    statuses = Counter(str(answer.status) for answer in answers)
    good = sorted(answer.seconds for answer in answers if answer.status == 200)
    refused = statuses["429"]
    return {
        "requests": len(answers),
        "statuses": dict(statuses),
        "refused": refused,
        "failed": len(answers) - len(good) - refused,
        "p50_s": round(good[len(good) // 2], 4) if good else None,
        "p99_s": round(good[int(len(good) * 0.99)], 4) if good else None,
    }


@contextmanager
def _served(source: Path) -> Iterator[Server]:
    """A copy of the bundle, served: stage rollout replaces it."""
    Bundle.load(source)
    with tempfile.TemporaryDirectory() as directory:
        server = Server(shutil.copytree(source, Path(directory) / "bundle"))
        try:
            server.wait()
            yield server
        finally:
            server.end()


def _renew(old: Path, draft: Path) -> None:
    """The same agent under another digest: what a re-run with another note would write."""
    shutil.copytree(old, draft, dirs_exist_ok=True)
    manifest = json.loads((draft / "bundle.json").read_text())
    manifest["lineage"]["config"] |= {"soak": time.time()}
    (draft / "bundle.json").write_text(json.dumps(manifest))


def _served_digest(url: str) -> str:
    import urllib.request

    with urllib.request.urlopen(f"{url}/info", timeout=30) as answer:
        return str(json.load(answer)["bundle"])


def _rss_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0


def _descriptors(pid: int) -> int:
    with suppress(OSError):
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(SoakConfig, main, usage=__doc__))
