"""Counts, gauges and histograms of the metrics named in agent.telemetry, rendered in Prometheus' text format.

An observation costs a few hundred nanoseconds: the hot path keeps the series that it adds to (`Metrics.counter`,
`Metrics.histogram`). One registry per replica, each series with the label `replica`; prometheus-client writes them down.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from agent import telemetry
from agent.telemetry import Metric


class Series:
    """A counter or a gauge with its labels; a gauge may be given by a function."""

    __slots__ = ("function", "value")

    def __init__(self) -> None:
        self.value, self.function = 0.0, None  # type: float, Callable[[], float] | None

    def add(self, value: float = 1) -> None:
        """Adds to it."""
        self.value += value

    def read(self) -> float:
        """Its value now."""
        return self.function() if self.function else self.value


class HistogramSeries:
    """A histogram with its labels: observations per bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Counts a value in the first bucket whose upper bound it does not exceed."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Upper bounds as Prometheus writes them, each with the observations up to it."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, itertools.accumulate(self.counts), strict=True))


class Metrics:
    """The metrics of one process; several of them fit into one process.

    Args:
        replica: Names the process that observes.
    """

    def __init__(self, replica: str = "local") -> None:
        self.replica = replica
        self._series: dict[str, dict[tuple[str, ...], Any]] = {metric.name: {} for metric in telemetry.SERVING}
        for metric in telemetry.SERVING:
            if not metric.labels:
                self._child(metric, {})  # series without labels exist from the start, at zero

    def counter(self, metric: Metric, **labels: str) -> Series:
        """The series of a counter with these labels, to be kept by who adds to it often."""
        series: Series = self._child(metric, labels)
        return series

    def histogram(self, metric: Metric, **labels: str) -> HistogramSeries:
        """The series of a histogram with these labels."""
        series: HistogramSeries = self._child(metric, labels)
        return series

    def count(self, metric: Metric, value: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        self._child(metric, labels).add(value)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Observes a value in a histogram."""
        self._child(metric, labels).observe(value)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._child(metric, labels).value = value

    def follow(self, metric: Metric, value: Callable[[], float]) -> None:
        """Lets a function give a gauge's value whenever it is read."""
        self._child(metric, {}).function = value

    def families(self) -> list[Any]:
        """Everything observed so far as prometheus-client's families of samples, which can be sent elsewhere."""
        return [self._family(metric) for metric in telemetry.SERVING]

    def render(self) -> bytes:
        """Everything observed so far in Prometheus' text format."""
        return rendered([self.families()])

    def _child(self, metric: Metric, labels: dict[str, str]) -> Any:
        series = self._series[metric.name]
        key = tuple(labels[name] for name in metric.labels)
        child = series.get(key)
        if child is None:
            child = series[key] = HistogramSeries(metric.buckets) if metric.kind == "histogram" else Series()
        return child

    def _family(self, metric: Metric) -> Any:
        names = (*metric.labels, "replica")
        kind = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
        family = kind[metric.kind](metric.name, metric.help, labels=names)
        for key, child in list(self._series[metric.name].items()):
            labels = (*key, self.replica)
            if metric.kind == "histogram":
                family.add_metric(labels, child.cumulative(), child.sum)
            else:
                family.add_metric(labels, child.read())
        return family


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
