"""Observes the metrics named in agent.telemetry: exactly, through prometheus-client, and in Ray's own metrics too.

prometheus-client is what `/metrics` renders: one registry per replica, each series with the label `replica`. Inside Ray
Serve the same observations also go to `ray.serve.metrics`, which the nodes' own Prometheus endpoints export.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from agent import telemetry
from agent.telemetry import Metric


class Sink(Protocol):
    """Something that takes observations."""

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Adds to a counter, sets a gauge or observes in a histogram."""


class Metrics:
    """Counts, sets and observes in every sink.

    Args:
        replica: Names the process that observes.
        sinks: Where observations go beside the registry.
    """

    def __init__(self, replica: str = "local", *, sinks: tuple[Sink, ...] = ()) -> None:
        self._registry = _PrometheusSink(replica)
        self._sinks: tuple[Sink, ...] = (self._registry, *sinks)

    def count(self, metric: Metric, value: float = 1, **labels: str) -> None:
        """Adds to a counter; adding nothing is nothing."""
        if value:
            self._record(metric, value, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Observes a value in a histogram."""
        self._record(metric, value, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._record(metric, value, labels)

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self._registry.registry)

    def _record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        for sink in self._sinks:
            sink.record(metric, value, labels)


class _PrometheusSink:
    """A registry of its own, so that several servers fit into one process."""

    def __init__(self, replica: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which no query reads
        self.registry = CollectorRegistry()
        self._replica = replica
        self._metrics = {metric.name: _prometheus(metric, self.registry) for metric in telemetry.SERVING}
        self._children: dict[tuple[str, ...], Any] = {}
        for metric in telemetry.SERVING:
            if not metric.labels:
                self._child(metric, {})  # series without labels exist from the start, at zero

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        child = self._child(metric, labels)
        if metric.kind == "counter":
            child.inc(value)
        elif metric.kind == "gauge":
            child.set(value)
        else:
            child.observe(value)

    def _child(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        key = (metric.name, *(labels[name] for name in metric.labels))
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._metrics[metric.name].labels(*key[1:], self._replica)
        return child


def _prometheus(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    names = (*metric.labels, "replica")
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, names, registry=registry)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, names, registry=registry)
    return Histogram(metric.name, metric.help, names, buckets=metric.buckets, registry=registry)


class RaySink:
    """Ray Serve's metrics, which add application, deployment and replica themselves."""

    def __init__(self) -> None:
        self._metrics = {metric.name: _ray(metric) for metric in telemetry.SERVING}

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Passes an observation on to Ray."""
        target, tags = self._metrics[metric.name], dict(labels)
        if metric.kind == "counter":
            target.inc(value, tags=tags)
        elif metric.kind == "gauge":
            target.set(value, tags=tags)
        else:
            target.observe(value, tags=tags)


def _ray(metric: Metric) -> Any:
    from ray.serve import metrics

    if metric.kind == "histogram":
        return metrics.Histogram(
            metric.name, description=metric.help, boundaries=list(metric.buckets), tag_keys=metric.labels
        )
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, description=metric.help, tag_keys=metric.labels)
