"""Follows a run in TensorBoard and MLflow. Never slows, blocks or ends the training that it follows."""

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
from agent.errors import ConfigError
from training.tracking.metrics_log import Joiner, Row
from training.tracking.tracker_backends import MLflowBackend, Point, TensorBoardBackend, TrackerBackend, mlflow_client

_STEPS_EVERY_S = 1.0  # one point for all steps of a second
_SEND_EVERY_S = 5.0
_OPEN_S = 10.0  # how long the start waits for a server, so that a checkpoint knows the run's id
_LAST_S = 30.0  # how long the end waits for what has not been sent
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
    "dev_f1": "dev/f1",
    "loss": "epoch/loss",
    "seconds": "epoch/seconds",
    "sentences_per_s": "epoch/sentences_per_s",
}


class TrackingConfig(Config):
    """Where a run can be followed beside its own output."""

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
        """The same with absolute paths: the worker that writes them has another working directory."""
        changes = {}
        if self.tensorboard:
            changes["tensorboard"] = str(Path(self.tensorboard).expanduser().absolute())
        if self.mlflow and (parts := urlsplit(self.mlflow)).scheme in ("", "file"):
            place = unquote(parts.path) if parts.scheme else self.mlflow
            changes["mlflow"] = Path(place).expanduser().absolute().as_uri()
        return self.model_copy(update=changes)


def check_trackers(config: TrackingConfig) -> None:
    """Refuses, before training starts, what could not be tracked with. Asks no server: it may come back later.

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
                f"tracking.mlflow={config.mlflow!r} is no store that the installed MLflow can write to ({_brief(error)})",
                allowed="http(s)://HOST:PORT, file:DIRECTORY, databricks",
                remedy="give the address of an MLflow server (mlflow server --backend-store-uri sqlite:///mlflow.db) or a "
                "directory, or pip install mlflow for its database stores",
            ) from None


class Trackers:
    """Sends a run to its trackers from a thread of its own; a tracker that fails is named once, and tried again.

    Args:
        config: Which trackers; with none of them this does nothing at all.
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
        self._sinks: list[TrackerBackend] = []
        if config.tensorboard:
            self._sinks.append(TensorBoardBackend(Path(config.tensorboard) / run_name, texts, done))
        if config.mlflow:
            self._sinks.append(
                MLflowBackend(config.mlflow, config.experiment, run_name=run_name, parameters=texts, state=self._state)
            )
        self._joiner, self._last_step = Joiner(_STEPS_EVERY_S), done
        self._points: deque[Point] = deque()
        self._warned: set[str] = set()
        self._failed = False
        self._open, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="trackers", daemon=True)

    def __enter__(self) -> Self:
        if self._sinks:
            self._thread.start()
            self._open.wait(_OPEN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._sinks:
            return
        self._add_steps(self._joiner.rest())
        self._failed = error is not None
        self._over.set()
        self._thread.join(_LAST_S)
        if self._thread.is_alive():
            _warn(f"trackers did not take all within {_LAST_S:.0f} s; the rest is not sent (metrics.jsonl has it)")

    @property
    def state(self) -> dict[str, str]:
        """What a checkpoint keeps for a later run."""
        return dict(self._state)

    def step(self, row: Row) -> None:
        """Takes a step row."""
        if self._sinks:
            self._add_steps(self._joiner.add(row))

    def epoch(self, row: Row) -> None:
        """Takes an epoch row."""
        if self._sinks:
            self._add_steps(self._joiner.rest())
            self._add(row["step"], row, _EPOCH_NAMES)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Takes the results of the whole run, by the names they shall have."""
        if self._sinks:
            self._add_steps(self._joiner.rest())
            self._add(self._last_step, metrics, {name: name for name in metrics})

    def _add_steps(self, joined: Row | None) -> None:
        if joined:
            self._last_step = joined["step"]
            self._add(joined["step"], joined, _STEP_NAMES)

    def _add(self, step: int, row: Row, names: Mapping[str, str]) -> None:
        values = {theirs: float(row[ours]) for ours, theirs in names.items()}
        self._points.append(Point(step, time.time(), values))

    def _send(self) -> None:
        over = False
        while not over:
            points = [self._points.popleft() for _ in range(len(self._points))]
            for sink in self._sinks:
                self._attempt(sink, points)
            self._open.set()
            over = self._over.wait(_SEND_EVERY_S)
        points = list(self._points)
        for sink in self._sinks:
            self._attempt(sink, points, close=True)

    def _attempt(self, sink: TrackerBackend, points: list[Point], *, close: bool = False) -> None:
        try:
            sink.write(points)
            if close:
                sink.close(failed=self._failed)
        except Exception as error:  # noqa: BLE001  # whatever a tracker does, training goes on
            if sink.name not in self._warned:
                self._warned.add(sink.name)
                _warn(f"{sink.name} cannot be written to; training goes on without it ({_brief(error)})")


def _require(package: str, key: str, value: str, *, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracking.{key}={value!r} needs the package {package}, which is not installed",
            remedy=f"pip install 'bert-agent[{extra}]', on the workers too, or leave tracking.{key} out",
        )


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
