"""PromQL expressions over the metrics that Ray exports."""

from __future__ import annotations

import re

from agent import telemetry
from agent.telemetry import Metric

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
# Minima for a faster clock: replicas copy their metrics every 5 s, Ray exports them every 6 to 10 s, and a busy machine
# sometimes misses a scrape of 3 s.
_LEAST_WINDOW_S, _LEAST_HOLD_S = 30, 7

SERVED = 'namespace=~"$namespace",agent=~"$agent"'
TRAINED = 'namespace=~"$namespace",run=~"$run"'
FLEET = 'namespace=~"$namespace"'


class Clock:
    """Windows and waiting times of rules, divided by a speed for tests.

    Args:
        speed: The divisor.
    """

    def __init__(self, speed: float = 1) -> None:
        self._speed = speed

    def window(self, text: str) -> str:
        """The window for `text` (5m, 1h, 3d)."""
        return text if self._speed == 1 else f"{max(_LEAST_WINDOW_S, round(seconds(text) / self._speed))}s"

    def hold(self, text: str) -> str:
        """The waiting time of an alert for `text`."""
        if self._speed == 1 or not seconds(text):
            return text
        return f"{max(_LEAST_HOLD_S, round(seconds(text) / self._speed))}s"


def seconds(text: str) -> int:
    """A duration of one unit in seconds.

    Raises:
        ValueError: The text is not a duration.
    """
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration such as 30s, 5m, 1h or 3d")
    return int(match[1]) * _SECONDS[match[2]]


def exported(metric: Metric, part: str = "") -> str:
    """The name that Ray exports a metric under; `part` is bucket, sum or count of a histogram."""
    if metric.kind == "counter":
        return f"ray_{metric.name}_total"
    return f"ray_{metric.name}_{part}" if part else f"ray_{metric.name}"


def rate(metric: Metric, part: str = "") -> str:
    """Rate of a serving metric, of the replicas that serve the chosen version."""
    return _of_version(f"rate({exported(metric, part)}{{{SERVED}}}[$__rate_interval])")


def now(metric: Metric) -> str:
    """A serving gauge, of the replicas that serve the chosen version."""
    return _of_version(f"{exported(metric)}{{{SERVED}}}")


def quantile(share: float, metric: Metric, *labels: str) -> str:
    """A quantile of a serving histogram by labels."""
    return f"histogram_quantile({share:g}, sum by ({', '.join((*labels, 'le'))}) {rate(metric, 'bucket')})"


def mean(metric: Metric, *labels: str) -> str:
    """The exact mean of a serving histogram by labels, from its sum and count."""
    by = ", ".join(labels)
    return f"sum by ({by}) {rate(metric, 'sum')} / sum by ({by}) {rate(metric, 'count')}"


def risen(series: str, window: str) -> str:
    """Counters that rose or appeared within a window; `increase` misses the first event of a counter."""
    return f"(({series} - {series} offset {window}) > 0 or ({series} unless {series} offset {window}) > 0)"


def _of_version(series: str) -> str:
    info = exported(telemetry.INFO)
    return f'({series} and on (namespace, replica) {info}{{{SERVED},bundle=~"$version"}} == 1)'
