"""`make monitor`, headless and short: every query of every serving panel and rule has data under load, and faults reach a webhook."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks.common.load_generator import LoadGenerator
from cluster.monitoring.panels.dashboards import DASHBOARDS
from cluster.monitoring.panels.fleet_panels import FLEET_BOARD
from cluster.monitoring.panels.serving_panels import SERVING
from cluster.monitoring.stack import Prometheus
from tests.cluster.monitoring.tools import Webhook, needed, unanswered
from tests.serving.tiny import TAGGER, TEXTS, make_bundle
from tests.signals import as_from_a_terminal
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.faults]
ROOT = Path(__file__).parents[3]
START_S = 180
SPEED = 120  # an hour in half a minute; no window is below that
SERVE = (
    "replicas.num_cpus=1", "cluster.num_cpus=2", "replicas.min_replicas=2", "rollout.poll_s=0.3", "limits.max_queued_s=0.3",
)  # fmt: skip
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--virtual-time-budget=8000", "--window-size=1400,2000",
)  # fmt: skip


@dataclass
class Monitor:
    """The running command and where its parts listen."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path
    bundle: Path
    agent: str
    prometheus: Prometheus
    page: str

    def processes(self) -> dict[int, str]:
        """Titles of all living processes that descend from it."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
        return found

    def firing(self, alert: str) -> bool:
        return any(one["labels"]["alertname"] == alert and one["state"] == "firing" for one in self.prometheus.alerts())


@pytest.fixture(scope="module")
def monitor(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    needed("prometheus")
    needed("alertmanager", "prometheus-alertmanager")
    bundle = make_bundle(tmp_path_factory.mktemp("served") / "bundle", TAGGER)
    mark, log = f"bert-agent-{uuid.uuid4()}", tmp_path_factory.mktemp("monitor") / "log"
    command = [
        sys.executable, "benchmarks/monitored_load.py", f"bundle={bundle}", "load_s=600", "page_port=0", "callers=1", f"speed={SPEED}",
        f"webhook={webhook.url}", f"serving=[{', '.join(SERVE)}]",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"BERT_AGENT_TEST": mark},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=as_from_a_terminal,  # noqa: PLW1509 - sets two handlers, takes no lock
        )
    try:
        until(lambda: "load for" in log.read_text() or process.poll() is not None, START_S)
        assert process.poll() is None, log.read_text()
        agent, prometheus, page = (
            re.search(rf"^{name}: +(\S+)", log.read_text(), re.MULTILINE)[1] for name in ("agent", "prometheus", "page")
        )
        monitor = Monitor(process, mark, log, bundle, agent, Prometheus(prometheus), page)
        yield monitor
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            until(lambda: process.poll() is not None, 90)
        for pid in _descendants(mark):
            os.kill(pid, signal.SIGKILL)


def _descendants(mark: str) -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark.encode() in _read(entry / "environ")]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_a_version_that_fails_verification_fires_its_alert(monitor: Monitor, webhook: Webhook) -> None:
    manifest = monitor.bundle / "bundle.json"
    good = manifest.read_bytes()
    manifest.write_bytes(good.replace(b'"sha256": "', b'"sha256": "0', 1))
    try:
        (alert, *_) = until(lambda: webhook.fired("BertAgentVersionRefused"))
    finally:
        manifest.write_bytes(good)
    assert alert["labels"]["agent"] == "bundle"
    assert alert["labels"]["outcome"] == "refused"


def test_every_query_of_every_serving_and_fleet_panel_has_data(monitor: Monitor) -> None:
    hasty = httpx.post(
        monitor.agent, json={"inputs": TEXTS * 50}, headers={"x-request-timeout-seconds": "0.001"}, timeout=20
    )
    assert hasty.status_code == 408  # so that "Refused by reason" has a reason
    assert until(lambda: not unanswered(monitor.prometheus, (SERVING, FLEET_BOARD)), 120), unanswered(
        monitor.prometheus, (SERVING, FLEET_BOARD)
    )


def test_every_rule_is_sound_and_every_recorded_series_has_data(monitor: Monitor) -> None:
    rules = monitor.prometheus.rules()
    assert len(rules) > 40
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    assert until(lambda: not _empty(monitor, recorded)), _empty(monitor, recorded)


def _empty(monitor: Monitor, series: set[str]) -> set[str]:
    """Recorded series without a number."""
    return {name for name in series if not any(math.isfinite(value) for _, value in monitor.prometheus.query(name))}


def test_throughput_and_latency_are_those_that_the_callers_see(monitor: Monitor) -> None:
    def value(expr: str) -> float:
        """A busy machine misses a scrape now and then."""
        ((_, found),) = until(lambda: monitor.prometheus.query(expr))
        return found

    before, began = value("sum(ray_bert_agent_texts_total)"), time.time()
    time.sleep(24)
    seen = (value("sum(ray_bert_agent_texts_total)") - before) / (time.time() - began)
    assert seen > 20
    assert value("sum(rate(ray_bert_agent_texts_total[30s]))") == pytest.approx(seen, rel=0.5)
    query = "histogram_quantile({}, sum by (le) (rate(ray_bert_agent_request_seconds_bucket[30s])))"
    median, slow = (value(query.format(share)) for share in (0.5, 0.99))
    assert 0.0005 < median <= slow < 5


def test_a_calm_server_fires_nothing(monitor: Monitor) -> None:
    assert until(lambda: not monitor.firing("BertAgentVersionRefused"))  # what the first test left
    firing = {one["labels"]["alertname"] for one in monitor.prometheus.alerts() if one["state"] == "firing"}
    assert firing <= {"BertAgentDiskFull"}  # the machine's own


def test_the_page_draws_every_panel_in_a_browser(monitor: Monitor, tmp_path: Path) -> None:
    browser = needed("chromium", "chromium-browser", "google-chrome")
    for board in DASHBOARDS:
        done = subprocess.run(
            [browser, *CHROMIUM, f"--user-data-dir={tmp_path / board.uid}", "--dump-dom", f"{monitor.page}/#{board.uid}"],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        panels = re.findall(r'<article class="panel".*?</article>', done.stdout, re.DOTALL)
        assert len(panels) == len(board.panels), done.stderr[-2000:]
        if board is SERVING:
            drawn = [panel for panel in panels if "<canvas" in panel]
            without = sum(all(query.needs for query in panel.queries) for panel in board.panels)
            assert len(drawn) == len(board.panels) - without
            assert re.search(r"bundle p99 <b>[\d.]+ (ms|s|µs)</b>", done.stdout)


def test_overload_fires_its_alert_and_reaches_the_webhook(monitor: Monitor, webhook: Webhook) -> None:
    callers = LoadGenerator(int(monitor.agent.rpartition(":")[2]), TEXTS)

    async def flood() -> None:
        while not webhook.fired("BertAgentShedding"):
            await callers.closed_loop(3, 64, size=200)

    asyncio.run(asyncio.wait_for(flood(), 90))
    (alert, *_) = webhook.fired("BertAgentShedding")
    assert alert["labels"]["severity"] == "page"
    assert re.fullmatch(r"bundle in local sheds load: 429 for [\d.]+% of the requests", alert["annotations"]["summary"])


def test_killed_replicas_fire_their_alert_and_reach_the_webhook(monitor: Monitor, webhook: Webhook) -> None:
    killed = 0
    deadline = time.monotonic() + 240
    while not webhook.fired("BertAgentReplicaFlapping") and time.monotonic() < deadline:
        for pid in [pid for pid, title in monitor.processes().items() if "ServeReplica:" in title]:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        time.sleep(5)
    assert killed >= 4
    (alert, *_) = webhook.fired("BertAgentReplicaFlapping")
    assert alert["labels"]["agent"] == "bundle"


def test_a_closed_terminal_stops_everything_and_an_impatient_ctrl_c_interrupts_nothing(monitor: Monitor) -> None:
    os.killpg(monitor.process.pid, signal.SIGHUP)
    for _ in range(3):
        time.sleep(0.3)
        os.killpg(monitor.process.pid, signal.SIGINT)
    assert monitor.process.wait(120) == 0, monitor.log.read_text()
    assert until(lambda: not monitor.processes()), monitor.processes()
    assert "stopped" in monitor.log.read_text()
