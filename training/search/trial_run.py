"""One trial of a search as Ray Tune runs it: a training run that can be stopped after any epoch. Decides nothing itself.

Ray's own TuneReportCallback is not used: a trial that is stopped with it leaves its workers' placement group behind where
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
from training.config import TrainingConfig, output_of
from training.lifecycle.job import train
from training.lifecycle.preparation import RunOverrides
from training.lifecycle.resume import checkpoint_store

NUMBER = "number"  # of the trial, in what Ray Tune gives it
EPOCH, SCORE = "epoch", "dev_f1"  # in a result
FAILURE = "failure"  # in the last result of a trial that an error ended

_LOOK_S = 1.0  # between looks whether the run has ended without another report
_END_S = 60.0  # how long a run that was stopped may take to end


@dataclass(frozen=True)
class TrialAssignment:
    """What trials are to do.

    Attributes:
        configs: By the trial's number.
        plan: Workers of each.
        directory: Where the search was started: relative paths begin there.
    """

    configs: Mapping[int, TrainingConfig]
    plan: WorkerPlan
    directory: str


class TrialRun:
    """A run in a thread of this process, seen as a sequence of results.

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
        """Waits for the next epoch, or for the end, which repeats the last epoch as done."""
        while (report := self._next_report()) is None:
            if not self._thread.is_alive() and self._reports.empty():
                return self._end()
        metrics, self._controller = report
        self._last = {name: metrics[name] for name in (EPOCH, SCORE)}
        return dict(self._last)

    def stop(self) -> None:
        """Ends the run if it is under way, frees its workers and removes its checkpoints."""
        import ray

        if not self._thread.is_alive():
            return
        if self._controller is not None:
            with suppress(ray.exceptions.RayActorError):  # it ends its own process, as with Ctrl-C
                ray.get(self._controller.abort.remote(), timeout=_END_S)
        self._thread.join(_END_S)
        with suppress(CheckpointError):
            checkpoint_store(self._config, output_of(self._config)).clear()

    def _next_report(self) -> Any:
        from ray.util.queue import Empty

        try:
            return self._reports.get(timeout=_LOOK_S)
        except Empty:
            return None

    def _end(self) -> dict[str, Any]:
        if self._error is not None and not isinstance(self._error, AgentError):
            raise self._error
        return self._last | {"done": True} | ({FAILURE: self._error} if self._error else {})

    def _train(self) -> None:
        try:
            train(self._config, RunOverrides(plan=self._plan, callbacks=[_reporter(self._reports)]))
        except Exception as error:  # noqa: BLE001  # told to Ray Tune by the next result
            self._error = error


def trial_class() -> Any:
    """What Ray Tune takes to run trials."""
    import ray.tune

    class Trial(ray.tune.Trainable):  # type: ignore[misc]
        def setup(self, config: Mapping[str, Any], assignment: TrialAssignment) -> None:
            os.chdir(assignment.directory)
            self._run = TrialRun(assignment.configs[config[NUMBER]], assignment.plan)

        def step(self) -> dict[str, Any]:
            return self._run.next()

        def cleanup(self) -> None:
            self._run.stop()

    return Trial


def _reporter(reports: Any) -> Any:
    """A callback of Ray Train that hands on every report, together with the controller that it runs in."""
    import ray
    from ray.train import UserCallback

    class Reporter(UserCallback):  # type: ignore[misc]
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            reports.put((metrics[0], ray.get_runtime_context().current_actor))

    return Reporter()
