"""Writes points to TensorBoard and MLflow; called from one background thread, which may block."""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

_MAX_METRICS, _MAX_PARAMETERS, _MAX_LENGTH = 1000, 100, 6000  # of one request: mlflow/utils/validation.py, 3.17
_MAX_PENDING = 200_000  # metrics kept for a server that is away
_RUN_ID = "mlflow_run_id"


class Point(NamedTuple):
    """Values at one time: `at` in seconds since 1970."""

    step: int
    at: float
    values: Mapping[str, float]


class TrackerBackend(Protocol):
    """A tracker.

    Attributes:
        name: For messages.
    """

    name: str

    def write(self, points: Iterable[Point]) -> None:
        """Opens the run if it is not open and writes points, possibly none."""

    def close(self, *, failed: bool) -> None:
        """Ends the run."""


class TensorBoardBackend:
    """Event files of TensorBoard.

    Args:
        directory: Of the run.
        parameters: The configuration.
        done: Steps that an earlier run of this name did; what it wrote after them is hidden, all of it in a new run.
    """

    def __init__(self, directory: Path, parameters: Mapping[str, str], done: int) -> None:
        self.name = f"TensorBoard's directory {directory}"
        self._directory, self._parameters, self._done = directory, parameters, done
        self._writer: Any = None

    def write(self, points: Iterable[Point]) -> None:
        """Writes the points to the disk."""
        if self._writer is None:
            self._writer = self._open()
        for point in points:
            for name, value in point.values.items():
                self._writer.add_scalar(name, value, point.step, walltime=point.at)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Closes the file; TensorBoard knows no failed runs."""
        self._writer.close()

    def _open(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self._directory), purge_step=self._done + 1)
        if not self._done:
            rows = [f"| {name} | {value} |" for name, value in self._parameters.items()]
            writer.add_text("parameters", "\n".join(["| key | value |", "|---|---|", *rows]))
        return writer


class MLflowBackend:
    """A run of MLflow. What its server does not accept is kept and sent again with the next points.

    Args:
        uri: Tracking URI.
        experiment: Made if it is absent.
        run_name: Name of a new run.
        parameters: The configuration, for a new run.
        state: Gets the run's id; one that is there already is gone on with.
    """

    def __init__(
        self, uri: str, experiment: str, *, run_name: str, parameters: Mapping[str, str], state: dict[str, str]
    ) -> None:
        self.name = f"MLflow at {uri}"
        self._uri, self._experiment, self._run_name, self._state = uri, experiment, run_name, state
        self._pending: deque[Any] = deque(maxlen=_MAX_PENDING)
        self._parameters = {} if _RUN_ID in state else dict(parameters)
        self._client: Any = None

    def write(self, points: Iterable[Point]) -> None:
        """Sends the points, and all that could not be sent before."""
        from mlflow.entities import Metric

        for point in points:
            self._pending.extend(
                Metric(_mlflow_name(name), value, int(point.at * 1000), point.step)
                for name, value in point.values.items()
            )
        if self._client is None:
            self._client = self._open()
        self._send_parameters()
        while batch := list(islice(self._pending, _MAX_METRICS)):
            self._client.log_batch(self._state[_RUN_ID], metrics=batch)
            for _ in batch:
                self._pending.popleft()

    def close(self, *, failed: bool) -> None:
        """Records how the run ended."""
        self._client.set_terminated(self._state[_RUN_ID], "FAILED" if failed else "FINISHED")

    def _open(self) -> Any:
        client = mlflow_client(self._uri)
        if _RUN_ID in self._state:
            client.update_run(self._state[_RUN_ID], status="RUNNING")
            return client
        experiment = client.get_experiment_by_name(self._experiment)
        number = experiment.experiment_id if experiment else client.create_experiment(self._experiment)
        self._state[_RUN_ID] = client.create_run(number, run_name=self._run_name).info.run_id
        return client

    def _send_parameters(self) -> None:
        from mlflow.entities import Param

        while names := list(islice(self._parameters, _MAX_PARAMETERS)):
            batch = [Param(_mlflow_name(name), self._parameters[name][:_MAX_LENGTH]) for name in names]
            self._client.log_batch(self._state[_RUN_ID], params=batch)
            for name in names:
                del self._parameters[name]


def mlflow_client(uri: str) -> Any:
    """A client of a tracking store; it contacts no server yet.

    Raises:
        Exception: MLflow's own, if it cannot use the URI.
    """
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses directories without it
    os.environ.setdefault(
        "MLFLOW_DISABLE_TELEMETRY", "true"
    )  # training reports only to the trackers that its user names
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each attempt; one warning of ours says it
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _mlflow_name(name: str) -> str:
    """Replaces characters that labels may hold and MLflow's names may not."""
    return re.sub(r"[^\w.\- /]", "_", name)
