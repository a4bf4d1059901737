"""Exports a run's metrics through Ray to Prometheus, under the names of agent.telemetry."""

from __future__ import annotations

import threading
from typing import Any

from agent import telemetry
from agent.errors import LossError
from agent.telemetry import Metric, ascii_label
from training.tracking.metrics_log import Row, StepAggregator

_EVERY_S = 1.0  # Prometheus scrapes every ten seconds or so; setting all metrics in every step would slow it
_REFRESH_S = 5.0  # Ray exports every ten seconds
_STEP_METRICS = (
    (telemetry.TRAINING_STEPS, "steps"),
    (telemetry.TRAINING_TOKENS, "tokens"),
    (telemetry.TRAINING_PADDED_TOKENS, "padded_tokens"),
    (telemetry.TRAINING_TOKENS_PER_SECOND, "tokens_per_s"),
    (telemetry.TRAINING_LOSS, "loss"),
    (telemetry.TRAINING_LEARNING_RATE, "learning_rate"),
    (telemetry.TRAINING_PADDING_RATIO, "padding_share"),
    (telemetry.TRAINING_STEP_SECONDS, "step_seconds"),
    (telemetry.TRAINING_HOST_RATIO, "host_share"),
    (telemetry.TRAINING_EPOCH, "epoch"),
    (telemetry.TRAINING_WORKERS, "num_workers"),
)


class RayMetrics:
    """The metrics of one run; on one worker, inside Ray.

    Args:
        run: Name of the run's output.
        restarts: How often it was restarted.
    """

    def __init__(self, *, run: str, restarts: int = 0) -> None:
        self._last_values: dict[str, float] = {}
        self._ended = threading.Event()
        self._metrics = {metric.name: _ray_metric(metric) for metric in telemetry.TRAINING_PROGRESS}
        self._tags = {"run": ascii_label(run)}
        self._aggregator = StepAggregator(_EVERY_S)
        self._record(telemetry.TRAINING_RESTARTS, restarts)
        self._refresher = threading.Thread(target=self._refresh, name="ray-metrics", daemon=True)
        self._refresher.start()

    def step(self, row: Row) -> None:
        """Records a step row."""
        if aggregated := self._aggregator.add(row):
            self._export(aggregated)

    def epoch(self, row: Row) -> None:
        """Records an epoch row."""
        if rest := self._aggregator.flush():
            self._export(rest)
        self._record(telemetry.TRAINING_DEV_SCORE, row["dev_score"])

    def close(self) -> None:
        """Stops refreshing the run's gauges; Ray drops them soon."""
        self._ended.set()
        self._refresher.join()

    def _refresh(self) -> None:
        """Sets all gauges again: Ray drops one that is not set within two exports, also while a run evaluates or saves."""
        while not self._ended.wait(_REFRESH_S):
            for name, value in list(self._last_values.items()):
                self._metrics[name].set(value, tags=self._tags)

    def _export(self, aggregated: Row) -> None:
        for metric, name in _STEP_METRICS:
            self._record(metric, aggregated[name])

    def _record(self, metric: Metric, value: float) -> None:
        target = self._metrics[metric.name]
        if metric.kind == "gauge":
            self._last_values[metric.name] = value
            target.set(value, tags=self._tags)
        elif value:  # Ray refuses to count nothing
            target.inc(value, tags=self._tags)


def count_failure(run: str, error: BaseException) -> None:
    """Counts a failed run. Called on the driver, the only process whose metrics are exported as it ends."""
    reason = "loss" if isinstance(error, LossError) else "error"
    _ray_metric(telemetry.TRAINING_FAILURES).inc(tags={"run": ascii_label(run), "reason": reason})


def _ray_metric(metric: Metric) -> Any:
    from ray.util import metrics

    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, description=metric.help, tag_keys=metric.labels)
