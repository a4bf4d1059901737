"""One trial of a search as Ray Tune runs it: a training run that can be stopped after any epoch.

Ray's own TuneReportCallback is not used: a trial that is stopped with it leaves the placement group of its workers behind where
Ray's state API does not answer, and the next trial waits for ever (seen with ray 2.60).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError, CheckpointError
from cluster import WorkerPlan
from cluster.tuning import NUMBER
from training.config import TrainingConfig, output_of
from training.engine.ray_train_internals import abort_run
from training.lifecycle.job import train
from training.lifecycle.preparation import RunOverrides
from training.lifecycle.resume import checkpoint_store

EPOCH, SCORE = "epoch", "dev_score"  # in a result
FAILURE = "failure"  # in the last result of a trial that an error ended

_POLL_S = 1.0  # between checks whether the run has ended without another report
_STOP_TIMEOUT_S = 60.0  # a run that was stopped may take so long to end


@dataclass(frozen=True)
class TrialAssignment:
    """What every trial is given.

    Attributes:
        configs: By the trial's number.
        plan: Workers of each.
        directory: Working directory of the search, which relative paths refer to.
    """

    configs: Mapping[int, TrainingConfig]
    plan: WorkerPlan
    directory: str


class TrialRun:
    """A training run in a thread of this process, as a sequence of results.

    Args:
        config: What to train.
        plan: Its workers.
    """

    def __init__(self, config: TrainingConfig, plan: WorkerPlan) -> None:
        from ray.util.queue import Queue

        self._config, self._plan = config, plan
        self._reports = Queue(actor_options={"num_cpus": 0})
        self._last: dict[str, Any] = {EPOCH: 0, SCORE: 0.0}
        self._controller: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._train, name="trial", daemon=True)
        self._thread.start()

    def next(self) -> dict[str, Any]:
        """Waits for the next epoch's result, or for the end, which repeats the last result with `done`."""
        while (report := self._next_report()) is None:
            if not self._thread.is_alive() and self._reports.empty():
                return self._end()
        metrics, self._controller = report
        self._last = {name: metrics[name] for name in (EPOCH, SCORE)}
        return dict(self._last)

    def stop(self) -> None:
        """Ends the run if it is under way, frees its workers and removes its checkpoints."""
        if not self._thread.is_alive():
            return
        if self._controller is not None:
            abort_run(self._controller, timeout_s=_STOP_TIMEOUT_S)
        self._thread.join(_STOP_TIMEOUT_S)
        with suppress(CheckpointError):
            checkpoint_store(self._config, output_of(self._config)).clear()

    def _next_report(self) -> Any:
        from ray.util.queue import Empty

        try:
            return self._reports.get(timeout=_POLL_S)
        except Empty:
            return None

    def _end(self) -> dict[str, Any]:
        if self._error is not None and not isinstance(self._error, AgentError):
            raise self._error
        return self._last | {"done": True} | ({FAILURE: self._error} if self._error else {})

    def _train(self) -> None:
        try:
            train(self._config, RunOverrides(plan=self._plan, callbacks=[_reporter(self._reports)]))
        except Exception as error:  # noqa: BLE001  # passed to Ray Tune by the next result
            self._error = error


def trainable_class() -> Any:
    """The class whose instances Ray Tune runs as trials."""
    import ray.tune

    class TrialTrainable(ray.tune.Trainable):  # type: ignore[misc]
        def setup(self, config: Mapping[str, Any], assignment: TrialAssignment) -> None:
            os.chdir(assignment.directory)
            self._run = TrialRun(assignment.configs[config[NUMBER]], assignment.plan)

        def step(self) -> dict[str, Any]:
            return self._run.next()

        def cleanup(self) -> None:
            self._run.stop()

    return TrialTrainable


def _reporter(reports: Any) -> Any:
    """A callback of Ray Train that passes on every report, with the controller that it runs in."""
    import ray
    from ray.train import UserCallback

    class Reporter(UserCallback):  # type: ignore[misc]
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            reports.put((metrics[0], ray.get_runtime_context().current_actor))

    return Reporter()
