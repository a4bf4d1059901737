"""A real training run fills every training panel; a run whose loss runs away fires its alert, which reaches a webhook."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.monitoring.panels.training_panels import TRAINING
from cluster.monitoring.promql import Clock
from cluster.monitoring.stack import Prometheus, free_port, monitoring
from tests.cluster.monitoring.tools import Webhook, needed, unanswered
from tests.system.nodes import FREE_PORTS
from tests.tiny import make_model, write_conll
from tests.waiting import until

pytestmark = [pytest.mark.system, pytest.mark.faults]
ROOT = Path(__file__).parents[3]
FAILED = "Runs given up"  # has something to show once a run was


@dataclass
class Watched:
    """A cluster, who watches it, and what is trained on."""

    cluster: dict[str, str]
    prometheus: Prometheus
    places: Path

    @contextmanager
    def training(self, name: str, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [
            sys.executable, "training/run.py", f"output={self.places / 'runs' / name}", f"data.path={self.places / 'ner'}",
            f"model.name={self.places / 'model'}", "engine.precision=fp32", "batch.tokens=128", "model.stride=8", "model.dropout=0", *settings,
        ]  # fmt: skip
        log = self.places / f"{name}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | self.cluster, stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def watched(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    needed("prometheus")
    needed("alertmanager", "prometheus-alertmanager")
    places = tmp_path_factory.mktemp("places")
    make_model(places / "model")
    write_conll(places / "ner", train=600)
    with tempfile.TemporaryDirectory(prefix="bt-", dir="/tmp") as session, _head(Path(session)) as cluster:
        discovery = Path(session) / "prom_metrics_service_discovery.json"
        with monitoring(discovery, clock=Clock(60), webhook=webhook.url) as prometheus:
            yield Watched(cluster, prometheus, places)


@contextmanager
def _head(session: Path) -> Iterator[dict[str, str]]:
    """A Ray of its own that outlives the runs; yields the environment in which a run finds it."""
    port, token = free_port(), {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    command = [
        Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats",
        f"--port={port}", f"--dashboard-port={free_port()}", f"--ray-client-server-port={free_port()}", f"--temp-dir={session}", *FREE_PORTS,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | token | {
        "RAY_metrics_report_interval_ms": "6000", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1", "RAY_prestart_worker_first_driver": "0",
    }  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as head:
        try:
            assert until(lambda: head.poll() is not None or _listens(port), 90)
            assert head.poll() is None
            yield token | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_query_of_every_training_panel_has_data_while_a_run_trains(watched: Watched) -> None:
    with watched.training("ner", "epochs=2000", "optimizer={kind: adamw, learning_rate: 0.001}") as run:
        left = until(
            lambda: not unanswered(watched.prometheus, [TRAINING], without={FAILED}) or run.poll() is not None, 150
        )
        assert run.poll() is None, (watched.places / "ner.log").read_text()
        assert left, unanswered(watched.prometheus, [TRAINING], without={FAILED})
        ((labels, workers),) = watched.prometheus.query("ray_bert_agent_training_workers")
        assert (labels["run"], workers) == ("ner", 1)


def test_a_run_whose_loss_runs_away_fires_its_alert_and_reaches_the_webhook(watched: Watched, webhook: Webhook) -> None:
    wild = "optimizer={kind: adamw, learning_rate: 1000000.0}"
    with watched.training("wild", "epochs=50", wild, "schedule.warmup_fraction=0") as run:
        assert run.wait(120) == 1
    assert "error: the loss" in (watched.places / "wild.log").read_text()
    (alert, *_) = until(lambda: webhook.fired("BertAgentTrainingLossNotFinite"))
    assert alert["labels"]["run"] == "wild"
    assert not unanswered(watched.prometheus, [TRAINING], without={panel.title for panel in TRAINING.panels} - {FAILED})
