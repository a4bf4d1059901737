"""Lets Ray Tune run the trials of a search and keeps their record while they run. Knows no ranges and writes no bundle."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.bundle import MANIFEST
from agent.errors import AgentError, TrainingError
from training.config import TrainingConfig, output_of
from training.search.search_record import SearchRecord, show
from training.search.trial_run import EPOCH, FAILURE, NUMBER, SCORE, TrialAssignment, trial_class

# Ray Tune's own tables, files and Ctrl-C: ours say it in a line, know where to go on, and end at once.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
_FOREIGN = "ray-tune"  # directory with Ray Tune's own files
_SLIVER = 0.001  # of a node's own resource: ties a process to the node


@dataclass(frozen=True)
class AshaConfig:
    """Asynchronous successive halving (ASHA, arXiv 1810.05934).

    Attributes:
        grace_epochs: The first rung; each next one is `reduction_factor` times as far.
        reduction_factor: Of the trials at a rung, one in so many goes on.
        epochs: Of a whole trial.
        num_concurrent: Trials at a time.
    """

    grace_epochs: int
    reduction_factor: int
    epochs: int
    num_concurrent: int


class TrialCallback:
    """Takes what Ray Tune tells of trials: keeps the record on disk, says it in lines, keeps only the best bundle.

    Args:
        record: Of the search so far.
        file: Where it is kept.
        configs: By trial.
    """

    def __init__(self, record: SearchRecord, file: Path, configs: Mapping[int, TrainingConfig]) -> None:
        self.record = record
        self.fatal: AgentError | None = None
        self._file, self._configs = file, configs

    def started(self, number: int) -> None:
        """A trial begins, or goes on."""
        settings = self.record.trials[number - 1].settings
        self._note(number, f"starts with {show(settings)}", state="running")

    def scored(self, number: int, epoch: int, score: float) -> None:
        """An epoch of a trial was scored on the dev split."""
        trial = self.record.trials[number - 1]
        if epoch and trial.epochs.get(epoch) != score:
            self._note(
                number,
                f"epoch {epoch}/{self._configs[number].epochs}: dev F1 {score:.4f}",
                epochs={**trial.epochs, epoch: score},
            )

    def failed(self, number: int, error: Exception) -> None:
        """A trial cannot go on. What other settings may avoid ends only the trial, everything else the search."""
        if isinstance(error, AgentError) and not isinstance(error, TrainingError):
            self.fatal = self.fatal or error
            return
        what = error.what if isinstance(error, AgentError) else (str(error).strip().splitlines() or [repr(error)])[-1]
        self._note(number, f"failed: {what}", state="failed", failure=what)

    def ended(self, number: int) -> None:
        """A trial is over: its bundle is there, or it was stopped."""
        trial = self.record.trials[number - 1]
        if self.fatal or trial.over:
            return
        if not (output_of(self._configs[number]) / MANIFEST).is_file():
            self._note(
                number, f"stopped after epoch {max(trial.epochs, default=0)}: others were better", state="stopped"
            )
            return
        self.record = self.record.changed(number, state="finished")
        best = self.record.best
        assert best
        rank = "the best so far" if best.number == number else f"trial {best.number} has {_told(best.score)}"
        self._note(number, f"finished: {_told(trial.score)}, {rank}")
        self._remove_all_but(best.number)

    def _remove_all_but(self, best: int) -> None:
        for trial in self.record.trials:
            if trial.state == "finished" and trial.number != best:
                shutil.rmtree(output_of(self._configs[trial.number]), ignore_errors=True)

    def _note(self, number: int, line: str, **changes: Any) -> None:
        self.record = self.record.changed(number, **changes)
        self.record.write(self._file)
        print(f"trial {number}/{len(self.record.trials)} {line}", flush=True)


def run_trials(watch: TrialCallback, assignment: TrialAssignment, halving: AshaConfig, workplace: Path) -> None:
    """Runs all trials that are not over.

    Raises:
        AgentError: None of them could go on.
    """
    numbers = [trial.number for trial in watch.record.trials if not trial.over]
    if not numbers:
        return
    os.environ.update(_QUIET)
    shutil.rmtree(workplace / _FOREIGN, ignore_errors=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    _tuner(numbers, watch, assignment, halving, workplace).fit()
    if watch.fatal:
        raise watch.fatal


def _tuner(
    numbers: list[int], watch: TrialCallback, assignment: TrialAssignment, halving: AshaConfig, workplace: Path
) -> Any:
    import ray
    from ray import tune

    # On this node, which the directory of the search lies on; its workers take resources of their own.
    here = {"cpu": 0, f"node:{ray.util.get_node_ip_address()}": _SLIVER}
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(trial_class(), assignment=assignment), here),
        param_space={NUMBER: tune.grid_search(numbers)},
        tune_config=tune.TuneConfig(
            scheduler=_scheduler(watch.record, halving), max_concurrent_trials=halving.num_concurrent
        ),
        run_config=tune.RunConfig(
            name=_FOREIGN,
            storage_path=str(workplace),
            verbose=0,
            callbacks=[_callback(watch)],
            stop=_stopper(watch),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _scheduler(record: SearchRecord, halving: AshaConfig) -> Any:
    """ASHA that knows the epochs of an interrupted search."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        max_t=halving.epochs,
        grace_period=min(halving.grace_epochs, halving.epochs),
        reduction_factor=halving.reduction_factor,
        stop_last_trials=False,  # who has come to the last epoch still has its bundle to write
    )
    for trial in record.trials:
        earlier = SimpleNamespace(trial_id=f"earlier-{trial.number}")
        scheduler.on_trial_add(None, earlier)
        for epoch, score in sorted(trial.epochs.items()):
            scheduler.on_trial_result(None, earlier, {EPOCH: epoch, SCORE: score})
    return scheduler


def _callback(watch: TrialCallback) -> Any:
    from ray import tune

    class Tell(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.started(trial.config[NUMBER])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            watch.scored(trial.config[NUMBER], result[EPOCH], result[SCORE])
            if error := result.get(FAILURE):
                watch.failed(trial.config[NUMBER], error)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.ended(trial.config[NUMBER])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.failed(trial.config[NUMBER], trial.get_error() or RuntimeError("its process died"))

    return Tell()


def _stopper(watch: TrialCallback) -> Any:
    from ray import tune

    class WhenFatal(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return watch.fatal is not None

    return WhenFatal()


def _told(score: float | None) -> str:
    return f"dev F1 {score:.4f}" if score is not None else "no score"
