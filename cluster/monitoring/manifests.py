"""The Kubernetes manifests in k8s/monitoring/: dashboards as ConfigMaps, a PrometheusRule, PodMonitors and a Kustomization."""

from __future__ import annotations

import json
from typing import Any

import yaml

from cluster.monitoring.panels.dashboards import DASHBOARDS
from cluster.monitoring.panels.grafana import grafana
from cluster.monitoring.rules.alerts import groups
from cluster.monitoring.scraping import metric_relabelings

NAMESPACE = "bert-agent"
_PART = {"app.kubernetes.io/part-of": "bert-agent", "app.kubernetes.io/component": "monitoring"}
_HEAD = "# Made by `python -m cluster.monitoring`; change cluster/monitoring/ instead. "
_RAY_PORTS = ("metrics", "as-metrics", "dash-metrics")  # every node; autoscaler and dashboard on heads
_PROXY_PORT = "proxy-metrics"  # HAProxy's own exporter, where agents are served


def manifests() -> dict[str, str]:
    """Content by file name."""
    files = {f"10-dashboard-{name}.yaml": _dashboard(name, board) for name, board in _boards()}
    files["20-rules.yaml"] = _yaml("The Prometheus operator loads it.", _rules())
    files["30-pod-monitors.yaml"] = _yaml("What the Prometheus operator scrapes.", _ray_pods(), _operator_pods())
    files["Kustomization"] = _yaml(
        "Without an extension, as ../Kustomization.",
        {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(files)},
    )
    return files


def _boards() -> list[tuple[str, dict[str, Any]]]:
    return [(board.uid.removeprefix("bert-agent-"), grafana(board)) for board in DASHBOARDS]


def _dashboard(name: str, board: dict[str, Any]) -> str:
    text = json.dumps(board, indent=1, ensure_ascii=False) + "\n"
    item = _item("v1", "ConfigMap", f"bert-agent-dashboard-{name}", {"grafana_dashboard": "1"})
    item["metadata"]["annotations"] = {"grafana_folder": "bert-agent"}
    return _yaml("Grafana's sidecar loads it by its label.", item | {"data": {f"bert-agent-{name}.json": text}})


def _rules() -> dict[str, Any]:
    item = _item("monitoring.coreos.com/v1", "PrometheusRule", "bert-agent", {})
    return item | {"spec": {"groups": [group.plain() for group in groups()]}}


def _ray_pods() -> dict[str, Any]:
    def endpoint(port: str) -> dict[str, Any]:
        # `job` and `namespace` as the rules want them; a pod's name stays in `pod`. A pod whose init containers still wait
        # (for a bundle, for the head) is Pending: as a target it would be a node that is down.
        relabelings = [
            {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running", "action": "keep"},
            {"targetLabel": "job", "replacement": "haproxy" if port == _PROXY_PORT else "ray"},
            {"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_cluster"], "targetLabel": "cluster"},
            {"sourceLabels": ["__meta_kubernetes_pod_label_ray_io_node_type"], "targetLabel": "node_type"},
        ]
        rules = [_camel(rule) for rule in metric_relabelings()]
        return {"port": port, "interval": "15s", "relabelings": relabelings, "metricRelabelings": rules}

    item = _item("monitoring.coreos.com/v1", "PodMonitor", "ray", {})
    spec = {
        "selector": {"matchLabels": {"ray.io/is-ray-node": "yes"}},  # KubeRay sets it on heads and workers
        "podMetricsEndpoints": [endpoint(port) for port in (*_RAY_PORTS, _PROXY_PORT)],
    }
    return item | {"spec": spec}


def _operator_pods() -> dict[str, Any]:
    item = _item("monitoring.coreos.com/v1", "PodMonitor", "kuberay-operator", {})
    spec = {
        "namespaceSelector": {"any": True},
        # Helm's chart and kustomize's installation both set this label.
        "selector": {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}},
        # Keeps the namespace label of its series, which is that of the described resource.
        "podMetricsEndpoints": [{"port": "http", "interval": "30s", "honorLabels": True}],
    }
    return item | {"spec": spec}


def _item(version: str, kind: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": _PART | labels},
    }


def _camel(rule: dict[str, Any]) -> dict[str, Any]:
    names = {"source_labels": "sourceLabels", "target_label": "targetLabel"}
    return {names.get(name, name): value for name, value in rule.items()}


class _Dumper(yaml.SafeDumper):
    """Writes multi-line texts as blocks and no anchors, so that the files can be reviewed."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _yaml(purpose: str, *items: dict[str, Any]) -> str:
    return f"{_HEAD}{purpose}\n" + yaml.dump_all(
        items, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True
    )
