"""Starts a Prometheus, and an Alertmanager for a webhook, on this machine's loopback interface."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from agent.errors import ClusterError
from cluster.monitoring.promql import Clock
from cluster.monitoring.rules.alerts import groups
from cluster.monitoring.rules.rule_file import rules_file
from cluster.monitoring.scraping import prometheus_config
from cluster.process_cleanup import end_with_parent

_START_S = 30
_STOP_S = 10
_ASK_S = 20
PROMETHEUS, ALERTMANAGER = ("prometheus",), ("alertmanager", "prometheus-alertmanager")  # the latter is Debian's name

Labels = Mapping[str, str]


class Prometheus:
    """A client of Prometheus' HTTP API.

    Args:
        url: Address of Prometheus.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expr: str) -> list[tuple[Labels, float]]:
        """The current values of an expression."""
        found = self._ask("query", {"query": expr})["result"]
        return [(item["metric"], float(item["value"][1])) for item in found]

    def query_range(
        self, expr: str, *, start: float, end: float, step: float
    ) -> list[tuple[Labels, list[tuple[float, float]]]]:
        """The values of an expression over time, as (unix seconds, value)."""
        found = self._ask("query_range", {"query": expr, "start": start, "end": end, "step": step})["result"]
        return [(item["metric"], [(float(when), float(value)) for when, value in item["values"]]) for item in found]

    def label_values(self, series: str, label: str) -> list[str]:
        """The values of a label of a series."""
        found: list[str] = self._ask(f"label/{label}/values", {"match[]": series})
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that are pending or fire."""
        found: list[dict[str, Any]] = self._ask("alerts", {})["alerts"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._ask("rules", {})["groups"] for rule in group["rules"]]

    def _ask(self, path: str, parameters: Mapping[str, Any]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=_ASK_S) as answer:
            return json.load(answer)["data"]


@contextmanager
def monitoring(discovery: Path, *, clock: Clock, webhook: str = "") -> Iterator[Prometheus]:
    """Monitors a Ray cluster within the block, with all recording rules and alerts.

    Args:
        discovery: Ray's service discovery file; it may be written later.
        clock: Windows and waiting times of the rules.
        webhook: URL that Alertmanager posts firing alerts to; without it no Alertmanager is started.

    Raises:
        ClusterError: A program is not installed, or does not start.
    """
    program = find(PROMETHEUS)
    notifier = find(ALERTMANAGER) if webhook else ""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bert-agent-monitor-")))
        address, alertmanager = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        (place / "rules.yaml").write_text(rules_file(groups(clock)))
        config = prometheus_config(discovery=str(discovery), rules=str(place / "rules.yaml"), alertmanager=alertmanager)
        _write(place / "prometheus.yaml", config)
        if notifier:
            _write(place / "alertmanager.yaml", _alertmanager_config(webhook))
            stack.enter_context(
                _running(_alertmanager_command(notifier, place, alertmanager), f"http://{alertmanager}", place)
            )
        stack.enter_context(_running(_prometheus_command(program, place, address), f"http://{address}", place))
        yield Prometheus(f"http://{address}")


def find(names: tuple[str, ...]) -> str:
    """The path of a program.

    Raises:
        ClusterError: None of these names is on PATH.
    """
    for name in names:
        if path := shutil.which(name):
            return path
    raise ClusterError(
        f"no {' or '.join(names)} on PATH",
        remedy="apt-get install prometheus prometheus-alertmanager (Debian, Ubuntu), or unpack a release of prometheus.io "
        "and put its directory on PATH",
    )


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def _alertmanager_config(webhook: str) -> dict[str, Any]:
    route = {"receiver": "webhook", "group_by": ["alertname", "agent"], "group_wait": "1s", "group_interval": "5s"}
    return {"route": route, "receivers": [{"name": "webhook", "webhook_configs": [{"url": webhook}]}]}


def _prometheus_command(program: str, place: Path, address: str) -> list[str]:
    return [
        program, f"--config.file={place / 'prometheus.yaml'}", f"--storage.tsdb.path={place / 'tsdb'}",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip


def _alertmanager_command(program: str, place: Path, address: str) -> list[str]:
    return [
        program, f"--config.file={place / 'alertmanager.yaml'}", f"--storage.path={place / 'alertmanager'}",
        f"--web.listen-address={address}", "--cluster.listen-address=", "--log.level=warn",
    ]  # fmt: skip


@contextmanager
def _running(command: list[str], url: str, place: Path) -> Iterator[None]:
    name = Path(command[0]).name
    log = place / f"{name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - it calls prctl and nothing else
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ClusterError(
                    f"{name} did not start: {' '.join(log.read_text(errors='replace').split())[-400:]}",
                    remedy=f"check that {command[0]} runs by itself (--version) and is at least Prometheus 2.40",
                )
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _write(path: Path, config: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
