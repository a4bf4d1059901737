"""Sends the metrics of a run to TensorBoard and MLflow, without slowing, blocking or ending it."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from agent.config.base import Config
from agent.config.nested import flatten
from agent.errors import ConfigError, one_line
from training.tracking.metrics_log import Row, StepAggregator
from training.tracking.tracker_backends import MLflowBackend, Point, TensorBoardBackend, TrackerBackend, mlflow_client

_STEPS_EVERY_S = 1.0  # one point for all steps of a second
_SEND_EVERY_S = 5.0
_OPEN_TIMEOUT_S = 10.0  # the start waits so long for a server, so that a checkpoint knows the run's id
_CLOSE_TIMEOUT_S = 30.0  # the end waits so long for what has not been sent
_STEP_NAMES = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
    "tokens_per_s": "train/tokens_per_s",
    "step_seconds": "train/step_seconds",
    "padding_share": "train/padding_share",
    "host_share": "train/host_share",
}
_EPOCH_NAMES = {
    "dev_score": "dev/score",
    "loss": "epoch/loss",
    "seconds": "epoch/seconds",
    "sentences_per_s": "epoch/sentences_per_s",
}


class TrackingConfig(Config):
    """Where the metrics of a run go beside its own output."""

    tensorboard: str | None = Field(None, description="directory of TensorBoard's event files; default: none")
    mlflow: str | None = Field(
        None, description="tracking URI of MLflow, such as http://host:5000 or file:./mlruns; default: none"
    )
    experiment: str = Field("bert-agent", min_length=1, description="experiment of MLflow that runs belong to")

    @field_validator("mlflow")
    @classmethod
    def _without_password(cls, uri: str | None) -> str | None:
        if uri and "@" in urlsplit(uri).netloc:  # the configuration is written into the bundle
            raise ValueError("give the user and password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        return uri

    def absolute(self) -> Self:
        """The same with absolute paths, since workers have another working directory."""
        changes = {}
        if self.tensorboard:
            changes["tensorboard"] = str(Path(self.tensorboard).expanduser().absolute())
        if self.mlflow and (parts := urlsplit(self.mlflow)).scheme in ("", "file"):
            path = unquote(parts.path) if parts.scheme else self.mlflow
            changes["mlflow"] = Path(path).expanduser().absolute().as_uri()
        return self.model_copy(update=changes)


def check_trackers(config: TrackingConfig) -> None:
    """Checks trackers before training starts. Contacts no server: one that is away may come back.

    Raises:
        ConfigError: A package is missing, or MLflow cannot use the tracking URI.
    """
    if config.tensorboard:
        _require("tensorboard", "tensorboard", config.tensorboard, extra="training")
    if config.mlflow:
        _require("mlflow", "mlflow", config.mlflow, extra="tracking")
        try:
            mlflow_client(config.mlflow)
        except Exception as error:  # noqa: BLE001  # each kind of store has errors of its own
            raise ConfigError(
                f"tracking.mlflow={config.mlflow!r} is no store that the installed MLflow can write to ({one_line(error, 200)})",
                allowed="http(s)://HOST:PORT, file:DIRECTORY, databricks",
                remedy="give the address of an MLflow server (mlflow server --backend-store-uri sqlite:///mlflow.db) or a "
                "directory, or pip install mlflow for its database stores",
            ) from None


class Trackers:
    """Sends a run to its trackers in a background thread; a tracker that fails is reported once and retried.

    Args:
        config: Which trackers; without any nothing happens.
        run_name: Name of the run, and of its directory below TensorBoard's.
        parameters: The configuration, nested or flat.
        state: What `state` was when the run's checkpoint was written; goes on in the same MLflow run.
        done: Steps that an earlier run of this name did; TensorBoard hides what it wrote after them.
    """

    def __init__(
        self,
        config: TrackingConfig,
        *,
        run_name: str,
        parameters: Mapping[str, Any],
        state: Mapping[str, str] | None = None,
        done: int = 0,
    ) -> None:
        texts = {key: str(value) for key, value in flatten(parameters).items()}
        self._state = dict(state or {})
        self._backends: list[TrackerBackend] = []
        if config.tensorboard:
            self._backends.append(TensorBoardBackend(Path(config.tensorboard) / run_name, texts, done))
        if config.mlflow:
            self._backends.append(
                MLflowBackend(config.mlflow, config.experiment, run_name=run_name, parameters=texts, state=self._state)
            )
        self._aggregator, self._last_step = StepAggregator(_STEPS_EVERY_S), done
        self._points: deque[Point] = deque()
        self._warned: set[str] = set()
        self._failed = False
        self._opened, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="trackers", daemon=True)

    def __enter__(self) -> Self:
        if self._backends:
            self._thread.start()
            self._opened.wait(_OPEN_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._backends:
            return
        self._add_steps(self._aggregator.flush())
        self._failed = error is not None
        self._ended.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _warn(
                f"trackers did not take all within {_CLOSE_TIMEOUT_S:.0f} s; the rest is not sent (metrics.jsonl has it)"
            )

    @property
    def state(self) -> dict[str, str]:
        """What a checkpoint keeps for a resumed run."""
        return dict(self._state)

    def step(self, row: Row) -> None:
        """Adds a step row."""
        if self._backends:
            self._add_steps(self._aggregator.add(row))

    def epoch(self, row: Row) -> None:
        """Adds an epoch row."""
        if self._backends:
            self._add_steps(self._aggregator.flush())
            self._add(row["step"], row, _EPOCH_NAMES)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Adds the results of the whole run, by their names in the tracker."""
        if self._backends:
            self._add_steps(self._aggregator.flush())
            self._add(self._last_step, metrics, {name: name for name in metrics})

    def _add_steps(self, aggregated: Row | None) -> None:
        if aggregated:
            self._last_step = aggregated["step"]
            self._add(aggregated["step"], aggregated, _STEP_NAMES)

    def _add(self, step: int, row: Row, names: Mapping[str, str]) -> None:
        values = {theirs: float(row[ours]) for ours, theirs in names.items()}
        self._points.append(Point(step, time.time(), values))

    def _send(self) -> None:
        ended = False
        while not ended:
            points = [self._points.popleft() for _ in range(len(self._points))]
            for backend in self._backends:
                self._send_to(backend, points)
            self._opened.set()
            ended = self._ended.wait(_SEND_EVERY_S)
        points = list(self._points)
        for backend in self._backends:
            self._send_to(backend, points, close=True)

    def _send_to(self, backend: TrackerBackend, points: list[Point], *, close: bool = False) -> None:
        try:
            backend.write(points)
            if close:
                backend.close(failed=self._failed)
        except Exception as error:  # noqa: BLE001  # whatever a tracker does, training goes on
            if backend.name not in self._warned:
                self._warned.add(backend.name)
                _warn(f"{backend.name} cannot be written to; training goes on without it ({one_line(error, 200)})")


def _require(package: str, key: str, value: str, *, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracking.{key}={value!r} needs the package {package}, which is not installed",
            remedy=f"pip install 'bert-agent[{extra}]', on the workers too, or leave tracking.{key} out",
        )


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
