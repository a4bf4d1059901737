"""Serves an agent under load, with Prometheus and a page that shows the dashboards (`make monitor`).

    python benchmarks/monitored_load.py [bundle=DIR] [load_s=60] [page_port=9900] [speed=120]

Starts `serving/run.py`, a Prometheus that reads Ray's service discovery file, and the page; sends load; runs until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent import corpus  # noqa: E402
from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.errors import ClusterError  # noqa: E402
from benchmarks.common.load_generator import LoadGenerator  # noqa: E402
from cluster.monitoring.page_server import Page, serve_page  # noqa: E402
from cluster.monitoring.promql import Clock  # noqa: E402
from cluster.monitoring.stack import PROMETHEUS, find, free_port, monitoring  # noqa: E402
from cluster.process_cleanup import at_signals, end_with_parent, kill_marked  # noqa: E402

_USAGE = """
Serves an agent under load, watched by a Prometheus; shows throughput, latency and alerts on a page of its own, until Ctrl-C.

  python benchmarks/monitored_load.py [bundle=DIR] [load_s=60] [page_port=9900] [key=value ...]
"""
_START_S = 180
# Metrics every 6 instead of 10 s, so that a minute of load has several points. Not more often: a gauge that was not set since
# the last export is not exported, and replicas set theirs every 5 s.
_OFTEN = {
    "RAY_metrics_report_interval_ms": "6000",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "5000",
    "RAY_SERVE_STATUS_GAUGE_REPORT_INTERVAL_S": "5",
    "RAY_SERVE_HAPROXY_METRICS_REPORT_INTERVAL_S": "5",
}


class MonitorConfig(Config):
    """What is served, and under which load."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent to serve; `make demo` makes this one")
    serving: tuple[str, ...] = Field((), description="more key.path=value of serving/run.py")
    page_port: int = Field(9900, ge=0, le=65_535, description="port of the page; 0 takes a free one")
    load_s: float = Field(60, ge=0, description="seconds of load")
    callers: int = Field(8, ge=1, description="callers, each with its next request as soon as the last is answered")
    speed: float = Field(
        120,
        ge=1,
        description="how many times faster the rules' windows pass than in production: an hour in half a minute",
    )
    webhook: str = Field("", description="where an Alertmanager posts what fires; without it none is started")


def main(config: MonitorConfig) -> None:
    """Serves, monitors and sends load until Ctrl-C."""
    stop = threading.Event()
    Bundle.load(Path(config.bundle))
    find(PROMETHEUS)  # before anything is started
    at_signals(lambda *_: stop.set())
    notice = f"Windows of rules and alerts pass {config.speed:g} times faster than in production: an hour is {3600 / config.speed:g} s."
    with (
        # A short path, since those of Ray's sockets have at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="bm-", dir="/tmp") as place,
        _serving(config, Path(place), stop) as port,
        monitoring(_discovery(Path(place)), clock=Clock(config.speed), webhook=config.webhook) as prometheus,
        serve_page(Page(prometheus, notice=notice), config.page_port) as url,
    ):
        print(f"agent:      http://127.0.0.1:{port}\nprometheus: {prometheus.url}\npage:       {url}", flush=True)
        print(f"load for {config.load_s:g} s; Ctrl-C stops", flush=True)
        asyncio.run(_load(config, port, stop))
        print("load ended; the page goes on until Ctrl-C", flush=True)
        stop.wait()
        print("stopping ...", flush=True)
    print("stopped", flush=True)


async def _load(config: MonitorConfig, port: int, stop: threading.Event) -> None:
    """Sends single texts without pause, and a batch a second."""
    texts = [sentence.text for sentence in corpus.generate(sizes={"test": 500})["test"]]
    end = time.monotonic() + config.load_s
    single, batches = LoadGenerator(port, texts), LoadGenerator(port, texts)
    while not stop.is_set() and (left := end - time.monotonic()) > 0:
        await asyncio.gather(single.closed_loop(min(1, left), config.callers), batches.ask(32))


@contextmanager
def _serving(config: MonitorConfig, place: Path, stop: threading.Event) -> Iterator[int]:
    port, log = free_port(), place / "serving.log"
    # A temporary directory of its own, since the service discovery file is that of the Ray that was started last.
    environment = os.environ | _OFTEN | {"RAY_TMPDIR": str(place)}
    environment.pop("RAY_ADDRESS", None)
    command_line = [
        sys.executable,
        str(ROOT / "serving/run.py"),
        f"bundle={config.bundle}",
        f"port={port}",
        *config.serving,
    ]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command_line,
            stdout=stream,
            stderr=stream,
            env=environment,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - it calls prctl and nothing else
        )
    try:
        deadline = time.monotonic() + _START_S
        while "serving at" not in log.read_text(errors="replace"):
            if stop.is_set():
                raise KeyboardInterrupt
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"serving/run.py did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.3)
        yield port
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(90)
        kill_marked(f"RAY_TMPDIR={place}")  # processes that outlive it


def _discovery(place: Path) -> Path:
    """Ray's service discovery file."""
    return place / "ray" / "prom_metrics_service_discovery.json"


if __name__ == "__main__":
    sys.exit(cli.run(MonitorConfig, main, usage=_USAGE))
