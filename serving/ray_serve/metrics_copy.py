"""Copies a replica's metrics to Ray Serve's own every few seconds, which the nodes' Prometheus endpoints export.

Histograms are copied as cumulative series under their usual names (`_bucket`, `_sum`, `_count`): Ray's own would cost ten
times as much per observation and lose the exact sum, since its agent replays every observation as the middle of its bucket.
"""

from __future__ import annotations

import asyncio
from typing import Any

from agent.telemetry import ascii_label
from serving.metrics import Metrics

_COPY_S = 5.0


class MetricsCopy:
    """Ray Serve's metrics, kept equal to a replica's; Ray adds application, deployment and replica itself.

    Args:
        metrics: What is copied.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
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
        for family in self._metrics.families():
            for sample in family.samples:
                tags = {name: ascii_label(value) for name, value in sample.labels.items() if name != "replica"}
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
