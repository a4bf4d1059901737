"""How Prometheus reads Ray's endpoints: the labels that panels and rules count on. One place for Kubernetes and for one machine."""

from __future__ import annotations

from typing import Any

# Applications are called as their agents; CPU and memory of a replica stand under the title of its process, and what
# HAProxy counts of their HTTP requests under the name of its backend.
_AGENT = "(.+)"
_BACKEND = "http-(.+)"
HAPROXY = "127.0.0.1:9101"  # where Ray Serve lets it export, unless the port is taken
_REPLICA = "ray::ServeReplica:([^:]+):.*"


def metric_relabelings() -> list[dict[str, Any]]:
    """For `metric_relabel_configs`: `agent` is what people call the application, and what no query reads is dropped."""
    return [
        {"source_labels": ["application"], "regex": _AGENT, "target_label": "agent"},
        {"source_labels": ["Component"], "regex": _REPLICA, "target_label": "agent"},
        {"source_labels": ["proxy"], "regex": _BACKEND, "target_label": "agent"},
        {"regex": "otel_scope_.*|SessionName", "action": "labeldrop"},
    ]


def prometheus_config(
    *, discovery: str, rules: str, alertmanager: str, interval: str = "3s", haproxy: str = HAPROXY
) -> dict[str, Any]:
    """A Prometheus of one machine.

    Args:
        discovery: Ray's service discovery file.
        haproxy: host:port of HAProxy's own exporter.
        rules: A file of rules.
        alertmanager: host:port.
        interval: Between scrapes, and between evaluations of the rules.
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
