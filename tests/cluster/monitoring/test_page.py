"""The page and the stack below it, with a real Prometheus, a real Alertmanager and series that we expose ourselves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from agent.errors import ClusterError
from cluster.monitoring.page_server import Page, serve_page
from cluster.monitoring.panels.serving_panels import SERVING as BOARD
from cluster.monitoring.promql import Clock
from cluster.monitoring.stack import PROMETHEUS, find, monitoring
from tests.cluster.monitoring.tools import Webhook, needed
from tests.waiting import until

PAGE = Path(__file__).parents[3] / "cluster" / "monitoring" / "page"
SERVING = "bert-agent-serving"


@pytest.fixture(scope="module")
def page_url(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two agents, as Ray's endpoints show them, that have answered some texts."""
    needed("prometheus")
    needed("alertmanager", "prometheus-alertmanager")
    registry = CollectorRegistry()
    labels = ("application", "replica", "bundle")
    info, texts = (
        Gauge("ray_bert_agent_info", "", labels, registry=registry),
        Counter("ray_bert_agent_texts", "", ("application", "replica"), registry=registry),
    )
    for replica, application in {"r1": "reviews", "r2": "tickets", "r3": 'odd".*name'}.items():
        info.labels(application, replica, f"digest{replica}").set(1)
        texts.labels(application, replica).inc(7)
    first = Gauge("ray_bert_agent_first_token_seconds_bucket", "", ("application", "replica", "le"), registry=registry)
    for bound in ("0.1", "+Inf"):
        first.labels("reviews", "r1", bound).set(0)  # an agent that writes nothing
        first.labels("tickets", "r2", bound).set_function(time.time)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    discovery = tmp_path_factory.mktemp("discovery") / "targets.json"
    discovery.write_text(
        json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{server.server_port}", "127.0.0.1:9"]}])
    )
    with (
        monitoring(discovery, clock=Clock(1000), webhook=webhook.url) as prometheus,
        serve_page(Page(prometheus, notice="a notice"), 0) as url,
    ):
        until(lambda: prometheus.query("ray_bert_agent_info"))
        yield url
    server.shutdown()
    thread.join()


def test_agents_are_called_by_their_names(page_url: str) -> None:
    values = httpx.get(f"{page_url}/api/variables/{SERVING}").json()
    assert values["agent"] == ['odd".*name', "reviews", "tickets"]
    assert values["version"] == ["digestr1", "digestr2", "digestr3"]


def test_a_panel_gives_the_lines_of_those_that_were_chosen(page_url: str) -> None:
    def lines(**chosen: str) -> list[str]:
        found = until(lambda: httpx.get(f"{page_url}/api/panels/{SERVING}/0", params=chosen).json())
        assert all(point[1] == 0 for line in found for point in line["points"])  # nothing came since
        return sorted(line["name"] for line in found)

    assert lines() == ['odd".*name', "reviews", "tickets"]
    assert lines(agent="tickets") == ["tickets"]
    assert lines(agent='odd".*name') == ['odd".*name']
    assert lines(version="digestr1") == ["reviews"]


def test_quantiles_of_what_was_never_observed_are_no_lines(page_url: str) -> None:
    number = [panel.title for panel in BOARD.panels].index("Time to first token")
    found = until(lambda: httpx.get(f"{page_url}/api/panels/{SERVING}/{number}").json())
    assert {line["name"].split()[0] for line in found} == {"tickets"}
    assert all(point[1] is None or 0 < point[1] <= 0.1 for line in found for point in line["points"])


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (f"panels/{SERVING}/0?agent=.*", 422, "reviews"),
        (f'panels/{SERVING}/0?agent=x"}}) or up', 422, "tickets"),
        (f"panels/{SERVING}/0?minutes=0", 422, "minutes"),
        (f"panels/{SERVING}/0?minutes=often", 422, "often"),
        (f"panels/{SERVING}/999", 404, "999"),
        ("panels/nothing/0", 404, SERVING),
        ("variables/nothing", 404, SERVING),
    ],
)
def test_nothing_but_the_panels_own_queries_is_asked(page_url: str, path: str, status: int, says: str) -> None:
    answer = httpx.get(f"{page_url}/api/{path}")
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_the_page_shows_every_panel_and_loads_nothing_from_elsewhere(page_url: str) -> None:
    answer = httpx.get(page_url)
    assert answer.headers["content-security-policy"] == "default-src 'self'"
    told = httpx.get(f"{page_url}/api/dashboards").json()
    assert told["notice"] == "a notice"
    assert [board["title"] for board in told["dashboards"]] == [
        "bert-agent / Serving", "bert-agent / Training", "bert-agent / Fleet",
    ]  # fmt: skip
    for file in ("monitor.js", "monitor.css", "uPlot.iife.min.js", "uPlot.min.css"):
        assert httpx.get(f"{page_url}/page/{file}").status_code == 200
    ours = answer.text + (PAGE / "monitor.js").read_text() + (PAGE / "monitor.css").read_text()
    assert re.findall(r"https?://[^\s\"'`)]+|\bsrc=\"(?!/page/)", ours) == []


def test_an_endpoint_that_is_down_reaches_the_webhook_and_the_page(page_url: str, webhook: Webhook) -> None:
    (alert, *_) = until(lambda: webhook.fired("BertAgentNodeDown"))
    assert alert["labels"]["instance"] == "127.0.0.1:9"
    assert alert["annotations"]["runbook_url"].endswith("runbooks.md#bertagentnodedown")
    shown_alerts = httpx.get(f"{page_url}/api/alerts").json()
    assert any(one["name"] == "BertAgentNodeDown" and one["state"] == "firing" for one in shown_alerts)


def test_a_missing_prometheus_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("prometheus") is None
    with pytest.raises(ClusterError, match=r"no prometheus on PATH.*apt-get install prometheus"):
        find(PROMETHEUS)


def test_continuous_integration_goes_on_where_nothing_can_be_installed(tmp_path: Path) -> None:
    (tmp_path / "id").symlink_to(shutil.which("id") or "")
    script = PAGE.parents[2] / ".ci" / "tools"
    done = subprocess.run(
        ["/bin/bash", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "tests that need prometheus prometheus-alertmanager redis-tools redis-server chromium" in done.stdout
