"""How Prometheus scrapes Ray's endpoints, on Kubernetes and on one machine: the labels that panels and rules use."""

from __future__ import annotations

from typing import Any

# An application has the name of its agent; CPU and memory of a replica are exported with the title of its process, and
# HAProxy's counts of HTTP answers with the name of its backend.
_AGENT = "(.+)"
_BACKEND = "http-(.+)"
HAPROXY = "127.0.0.1:9101"  # where Ray Serve lets it export, unless the port is taken
_REPLICA = "ray::ServeReplica:([^:]+):.*"


def metric_relabelings() -> list[dict[str, Any]]:
    """Rules for `metric_relabel_configs`: set `agent` from the application's name, and drop labels that no query uses."""
    return [
        {"source_labels": ["application"], "regex": _AGENT, "target_label": "agent"},
        {"source_labels": ["Component"], "regex": _REPLICA, "target_label": "agent"},
        {"source_labels": ["proxy"], "regex": _BACKEND, "target_label": "agent"},
        {"regex": "otel_scope_.*|SessionName", "action": "labeldrop"},
    ]


def prometheus_config(
    *, discovery: str, rules: str, alertmanager: str, interval: str = "3s", haproxy: str = HAPROXY
) -> dict[str, Any]:
    """The configuration of a Prometheus on one machine.

    Args:
        discovery: Ray's service discovery file.
        rules: A file of rules.
        alertmanager: host:port.
        interval: Between scrapes, and between evaluations of the rules.
        haproxy: host:port of HAProxy's own exporter.
    """
    labels = {
        "relabel_configs": [{"target_label": "namespace", "replacement": "local"}],
        "metric_relabel_configs": metric_relabelings(),
    }
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {
                "job_name": "ray",
                "file_sd_configs": [{"files": [discovery], "refresh_interval": "1s"}],
                **labels,
            },
            {"job_name": "haproxy", "static_configs": [{"targets": [haproxy]}], **labels},
        ],
    }
