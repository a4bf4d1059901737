"""Observes the metrics named in agent.telemetry: exactly, through prometheus-client, and from there in Ray's own metrics.

prometheus-client is what `/metrics` renders: one registry per replica, each series with the label `replica`. Inside Ray
Serve the registry is copied to `ray.serve.metrics` every few seconds, which the nodes' own Prometheus endpoints export.
Ray's own histograms would cost ten times as much per observation and lose the exact sum (its agent replays every
observation as the middle of its bucket); as cumulative series they arrive under the usual names: `_bucket`, `_sum`, `_count`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from agent import telemetry
from agent.telemetry import Metric

_COPY_S = 5.0


class Metrics:
    """Counts, sets and observes; several of them fit into one process.

    Args:
        replica: Names the process that observes.
    """

    def __init__(self, replica: str = "local") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, which no query reads
        self.registry = CollectorRegistry()
        self.replica = replica
        self._metrics = {metric.name: _prometheus(metric, self.registry) for metric in telemetry.SERVING}
        self._children: dict[tuple[str, ...], Any] = {}
        for metric in telemetry.SERVING:
            if not metric.labels:
                self._child(metric, {})  # series without labels exist from the start, at zero

    def count(self, metric: Metric, value: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._child(metric, labels).inc(value)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Observes a value in a histogram."""
        self._child(metric, labels).observe(value)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._child(metric, labels).set(value)

    def follow(self, metric: Metric, value: Callable[[], float]) -> None:
        """Lets a gauge be what a function says whenever somebody looks: cheaper than to set what changes with every request."""
        self._child(metric, {}).set_function(value)

    def families(self) -> list[Any]:
        """Everything observed so far, as prometheus-client's own families of samples; they can be sent elsewhere."""
        return list(self.registry.collect())

    def render(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)

    def _child(self, metric: Metric, labels: dict[str, str]) -> Any:
        key = (metric.name, *(labels[name] for name in metric.labels)) if labels else (metric.name,)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._metrics[metric.name].labels(*key[1:], self.replica)
        return child


def _prometheus(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    names = (*metric.labels, "replica")
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, names, registry=registry)
    if metric.kind == "gauge":
        return Gauge(metric.name, metric.help, names, registry=registry)
    return Histogram(metric.name, metric.help, names, buckets=metric.buckets, registry=registry)


def rendered(several: Iterable[Sequence[Any]]) -> bytes:
    """The families of several registries in Prometheus' text format, each family once with the samples of all."""
    merged: dict[str, Any] = {}
    for family in itertools.chain.from_iterable(several):
        if family.name in merged:
            merged[family.name].samples.extend(family.samples)
        else:
            merged[family.name] = family
    return generate_latest(_Families(merged.values()))


class _Families(CollectorRegistry):
    """A registry of families that were collected elsewhere."""

    def __init__(self, families: Iterable[Any]) -> None:
        super().__init__()
        self._collected = list(families)

    def collect(self) -> Iterator[Any]:
        yield from self._collected


class RayCopy:
    """Ray Serve's metrics, kept equal to a registry; Ray adds application, deployment and replica itself.

    Args:
        metrics: What is copied.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self._targets: dict[str, Any] = {}
        self._counted: dict[tuple[str, ...], float] = {}

    async def keep(self) -> None:
        """Copies every few seconds for as long as it runs, and once more at its end."""
        try:
            while True:
                await asyncio.sleep(_COPY_S)
                self.copy()
        finally:
            self.copy()

    def copy(self) -> None:
        """Copies once."""
        for family in self._registry.collect():
            for sample in family.samples:
                tags = {name: value for name, value in sample.labels.items() if name != "replica"}
                if family.type == "counter":
                    self._add(family.name, family.documentation, tags, sample.value)
                else:
                    self._target("Gauge", sample.name, family.documentation, tags).set(sample.value, tags=tags)

    def _add(self, name: str, help_text: str, tags: dict[str, str], value: float) -> None:
        key = (name, *tags.values())
        more = value - self._counted.get(key, 0.0)
        if more > 0:
            self._target("Counter", name, help_text, tags).inc(more, tags=tags)
            self._counted[key] = value

    def _target(self, kind: str, name: str, help_text: str, tags: dict[str, str]) -> Any:
        from ray.serve import metrics

        if name not in self._targets:
            self._targets[name] = getattr(metrics, kind)(name, description=help_text, tag_keys=tuple(tags))
        return self._targets[name]
