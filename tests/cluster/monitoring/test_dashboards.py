"""Every panel says what it shows; Grafana's JSON, Kubernetes' files and the page show the same panels."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agent import telemetry
from cluster.monitoring.manifests import manifests
from cluster.monitoring.page_server import legend
from cluster.monitoring.panels.dashboard import Dashboard, Panel, Query
from cluster.monitoring.panels.dashboards import DASHBOARDS
from cluster.monitoring.panels.grafana import grafana
from cluster.monitoring.rules.alerts import groups
from cluster.monitoring.rules.rule_file import Group, Recording, rules_file
from tests.cluster.monitoring.test_rules import promtool
from tests.cluster.monitoring.tools import needed
from tests.manifests.schema_checks import close
from tests.manifests.world import CRDS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "k8s" / "monitoring"
QUERIES = [(board, panel, query) for board in DASHBOARDS for panel in board.panels for query in panel.queries]

# What each dashboard is for; none of these may go missing.
DEMANDED = {
    "bert-agent-serving": {
        "Texts per second", "Tokens per second", "Request latency", "Stages, p50", "Stages, p99", "Windows in a batch", "Tokens in a batch",
        "Padding share", "Tokens waiting", "Refused by reason", "Replicas wanted and running", "GPU use", "CPU of replicas",
        "Entities per second by type", "Score drift", "Evidence for drift",
    },
    "bert-agent-training": {
        "Tokens per second", "Loss", "Dev score by epoch", "Step time split", "Wait share", "Padding share", "Workers", "Restarts", "GPU memory",
    },
    "bert-agent-fleet": {
        "Nodes", "GCS alive", "CPUs of the cluster", "Autoscaler errors", "Object store", "Upgrades under way", "Versions served",
    },
}  # fmt: skip
# A run is an agent that has no version yet: its bundle gets one when it ends.
VARIABLES = {
    "bert-agent-serving": ["namespace", "agent", "version"],
    "bert-agent-training": ["namespace", "run"],
    "bert-agent-fleet": ["namespace", "agent", "version"],
}


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.title)
def test_a_dashboard_has_the_panels_and_variables_that_it_is_for(board: Dashboard) -> None:
    assert DEMANDED[board.uid] - {panel.title for panel in board.panels} == set()
    assert [variable.name for variable in board.variables] == VARIABLES[board.uid]


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.title)
def test_every_panel_has_a_unit_a_description_and_legends(board: Dashboard) -> None:
    assert len({panel.title for panel in board.panels}) == len(board.panels)
    for panel in board.panels:
        assert panel.unit
        assert panel.description.endswith(".")
        assert len(panel.description) > 20
        assert len({query.legend for query in panel.queries}) == len(panel.queries)
        assert all(query.legend for query in panel.queries)


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.title)
def test_queries_use_the_variables_of_their_dashboard_and_no_others(board: Dashboard) -> None:
    used = {
        name for panel in board.panels for query in panel.queries for name in re.findall(r"\$(?!__)(\w+)", query.expr)
    }
    assert used == {variable.name for variable in board.variables}


def test_a_legend_names_only_labels_that_the_query_keeps() -> None:
    for _, _, query in QUERIES:
        kept = re.findall(r"\bby \(([^)]*)\)", query.expr)
        if kept:
            names = {name.strip() for group in kept for name in group.split(",")} | {"bundle"}
            assert set(re.findall(r"\{\{(\w+)\}\}", query.legend)) <= names, query


def test_every_metric_of_ours_is_on_a_panel() -> None:
    text = " ".join(query.expr for _, _, query in QUERIES)
    unseen = {metric.name for metric in (*telemetry.SERVING, *telemetry.TRAINING) if metric.name not in text}
    assert unseen == {
        telemetry.WARMUP_SECONDS.name,
        telemetry.TRAINING_PADDED_TOKENS.name,
    }  # of interest to nobody over time


def test_recorded_series_on_panels_are_recorded() -> None:
    recorded = {rule.name for group in groups() for rule in group.rules if isinstance(rule, Recording)}
    asked = {name for _, _, query in QUERIES for name in re.findall(r"agent:\w+:\w+", query.expr)}
    assert asked
    assert asked <= recorded


def test_promtool_reads_every_query(tmp_path: Path) -> None:
    """As recording rules, with variables put in."""

    def plain(expr: str) -> str:
        return re.sub(r"\$\w+", ".*", expr.replace("$__rate_interval", "1m"))

    rules = [Recording(f"panel:{number}", plain(query.expr)) for number, (*_, query) in enumerate(QUERIES)]
    file = tmp_path / "panels.yaml"
    file.write_text(rules_file([Group("panels", rules)]))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.title)
def test_grafana_shows_the_same_panels(board: Dashboard) -> None:
    made = grafana(board)
    panels = [panel for panel in made["panels"] if panel["type"] != "row"]
    assert [_back(panel) for panel in panels] == [
        Panel(
            panel.title,
            panel.description,
            panel.unit,
            tuple(Query(q.expr, q.legend) for q in panel.queries),
            panel.stacked,
        )
        for panel in board.panels
    ]
    assert [panel["title"] for panel in made["panels"] if panel["type"] == "row"] == [row.title for row in board.rows]
    choices = [(item["name"], item["query"]) for item in made["templating"]["list"] if item["type"] == "query"]
    assert choices == [(variable.name, variable.query) for variable in board.variables]
    assert all(item["allValue"] == ".*" for item in made["templating"]["list"] if item["type"] == "query")
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel.get("id") for panel in panels}) == len(panels)


def _back(panel: dict[str, Any]) -> Panel:
    unit = panel["fieldConfig"]["defaults"]["unit"].removeprefix("suffix:")
    queries = tuple(Query(target["expr"], target["legendFormat"]) for target in panel["targets"])
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    return Panel(panel["title"], panel["description"], unit, queries, stacked)


def test_the_files_in_the_folder_are_those_that_the_builder_makes() -> None:
    found = {file.name: file.read_text() for file in FOLDER.iterdir()}
    assert found == manifests(), "run: python -m cluster.monitoring"


def test_grafanas_sidecar_finds_the_dashboards() -> None:
    maps = [item for item in _items() if item["kind"] == "ConfigMap"]
    assert len(maps) == len(DASHBOARDS)
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        (text,) = item["data"].values()
        assert json.loads(text)["uid"].startswith("bert-agent-")
        assert len(text) < 900_000  # a ConfigMap holds a mebibyte, kubectl's annotation a quarter of it


def test_custom_resources_follow_their_schemas_closed() -> None:
    if not CRDS.is_dir():
        pytest.skip(f"{CRDS} is absent")
    custom = [item for item in _items() if item["apiVersion"] == "monitoring.coreos.com/v1"]
    assert {item["kind"] for item in custom} == {"PrometheusRule", "PodMonitor"}
    for item in custom:
        assert _broken(item) == []


def _broken(item: dict[str, Any]) -> list[str]:
    (version,) = yaml.safe_load((CRDS / f"{item['kind'].lower()}s.yaml").read_text())["spec"]["versions"]
    schema = close(version["schema"]["openAPIV3Schema"])
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(item)]


def test_a_planted_mistake_breaks_their_schemas() -> None:
    if not CRDS.is_dir():
        pytest.skip(f"{CRDS} is absent")
    monitor = next(item for item in _items() if item["kind"] == "PodMonitor")
    monitor["spec"]["podMetricsEndpoint"] = monitor["spec"].pop("podMetricsEndpoints")
    assert any("podMetricsEndpoint" in message for message in _broken(monitor))
    rules = next(item for item in _items() if item["kind"] == "PrometheusRule")
    rules["spec"]["groups"][0]["rules"][0]["expression"] = rules["spec"]["groups"][0]["rules"][0].pop("expr")
    assert any("expression" in message for message in _broken(rules))


def test_kustomize_builds_the_folder() -> None:
    done = subprocess.run(
        [needed("kubectl"), "kustomize", FOLDER], capture_output=True, text=True, timeout=60, check=True
    )
    built = [(item["kind"], item["metadata"]["name"]) for item in yaml.safe_load_all(done.stdout)]
    assert sorted(built) == sorted((item["kind"], item["metadata"]["name"]) for item in _items())


def test_the_ports_that_are_watched_are_those_that_the_head_opens() -> None:
    service = yaml.safe_load((ROOT / "k8s" / "20-rayservice.yaml").read_text())
    head = service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    opened = {port["name"] for port in head["ports"]} | {"metrics"}  # which KubeRay adds
    ray = next(item for item in _items() if item["metadata"]["name"] == "ray")
    assert {endpoint["port"] for endpoint in ray["spec"]["podMetricsEndpoints"]} <= opened


def test_a_legend_takes_the_labels_of_its_series() -> None:
    assert legend("{{agent}} {{status}}", {"agent": "tickets", "status": "429"}) == "tickets 429"
    assert legend("{{agent}} p99", {}) == "p99"


def _items() -> list[dict[str, Any]]:
    return [item for file in sorted(FOLDER.glob("*.yaml")) for item in yaml.safe_load_all(file.read_text())]
