"""Shows a run in Ray's own metrics, under the names of agent.telemetry. Keeps no history: Prometheus does."""

from __future__ import annotations

import threading
from typing import Any

from agent import telemetry
from agent.errors import LossError
from agent.telemetry import Metric, ascii_label
from training.tracking.metrics_log import Joiner, Row

_EVERY_S = 1.0  # Prometheus asks every ten seconds or so; a step must not pay for ten metrics
_BEAT_S = 5.0  # Ray exports every ten seconds
_OF_STEPS = (
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
        run: What the run is called: the name of its output.
        restarts: How often it was taken up again before.
    """

    def __init__(self, *, run: str, restarts: int = 0) -> None:
        self._standing: dict[str, float] = {}
        self._ended = threading.Event()
        self._metrics = {metric.name: _ray(metric) for metric in telemetry.TRAINING_PROGRESS}
        self._tags = {"run": ascii_label(run)}
        self._joiner = Joiner(_EVERY_S)
        self._record(telemetry.TRAINING_RESTARTS, restarts)
        self._heart = threading.Thread(target=self._beat, name="gauges", daemon=True)
        self._heart.start()

    def step(self, row: Row) -> None:
        """Takes a step row."""
        if joined := self._joiner.add(row):
            self._show(joined)

    def epoch(self, row: Row) -> None:
        """Takes an epoch row."""
        if rest := self._joiner.rest():
            self._show(rest)
        self._record(telemetry.TRAINING_DEV_F1, row["dev_f1"])

    def close(self) -> None:
        """Ends the run's gauges; Ray forgets them soon."""
        self._ended.set()
        self._heart.join()

    def _beat(self) -> None:
        """Ray forgets a gauge that is not set again within two exports; a run that stalls, evaluates or saves is still there."""
        while not self._ended.wait(_BEAT_S):
            for name, value in list(self._standing.items()):
                self._metrics[name].set(value, tags=self._tags)

    def _show(self, joined: Row) -> None:
        for metric, name in _OF_STEPS:
            self._record(metric, joined[name])

    def _record(self, metric: Metric, value: float) -> None:
        target = self._metrics[metric.name]
        if metric.kind == "gauge":
            self._standing[metric.name] = value
            target.set(value, tags=self._tags)
        elif value:  # Ray refuses to count nothing
            target.inc(value, tags=self._tags)


def count_failure(run: str, error: BaseException) -> None:
    """Counts a run that was given up. To be called on the driver: it is the process that hands over its metrics as it ends."""
    reason = "loss" if isinstance(error, LossError) else "error"
    _ray(telemetry.TRAINING_FAILURES).inc(tags={"run": ascii_label(run), "reason": reason})


def _ray(metric: Metric) -> Any:
    from ray.util import metrics

    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(metric.name, description=metric.help, tag_keys=metric.labels)
