"""Follows the trials of a hyper-parameter search: their record, failures, and which bundles are kept; stops weak ones with ASHA."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent.bundle import MANIFEST
from agent.errors import AgentError, TrainingError
from cluster.tuning import TrialListener
from training.config import TrainingConfig, output_of
from training.search.search_record import SearchRecord
from training.search.trial_run import EPOCH, FAILURE, SCORE


@dataclass(frozen=True)
class AshaConfig:
    """Asynchronous successive halving (ASHA, arXiv 1810.05934).

    Attributes:
        grace_epochs: The first rung; each next one is `reduction_factor` times as far.
        reduction_factor: Of the trials at a rung, one in so many goes on.
        epochs: Of a whole trial.
    """

    grace_epochs: int
    reduction_factor: int
    epochs: int

    def scheduler(self, record: SearchRecord) -> Any:
        """Ray Tune's scheduler with the epochs of an interrupted search.

        They are passed by methods that otherwise Ray Tune's loop calls, with trials that have nothing but an id; written for Ray
        2.60 (tests/training/engine/test_private_interfaces.py).
        """
        from ray.tune.schedulers import ASHAScheduler

        scheduler = ASHAScheduler(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=self.epochs,
            grace_period=min(self.grace_epochs, self.epochs),
            reduction_factor=self.reduction_factor,
            stop_last_trials=False,  # a trial at its last epoch still has its bundle to write
        )
        for trial in record.trials:
            earlier = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            scheduler.on_trial_add(None, earlier)
            for epoch, score in sorted(trial.epochs.items()):
                scheduler.on_trial_result(None, earlier, {EPOCH: epoch, SCORE: score})
        return scheduler


class TrainingTrials(TrialListener):
    """Keeps the record of the trials and only the best bundle.

    Args:
        record: Of the search so far.
        file: Where it is kept.
        configs: By trial.
    """

    record: SearchRecord

    def __init__(self, record: SearchRecord, file: Path, configs: Mapping[int, TrainingConfig]) -> None:
        super().__init__(record, file)
        self._configs = configs

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """Records the score of an epoch, or why the trial failed."""
        trial, epoch, score = self.record.trials[number - 1], result[EPOCH], result[SCORE]
        if epoch and trial.epochs.get(epoch) != score:
            line = f"epoch {epoch}/{self._configs[number].num_epochs}: dev score {score:.4f}"
            self.update(number, line, epochs={**trial.epochs, epoch: score})
        if error := result.get(FAILURE):
            self.crashed(number, error)

    def crashed(self, number: int, error: Exception) -> None:
        """Records a failure. What other settings may avoid ends only the trial, everything else the search."""
        if isinstance(error, AgentError) and not isinstance(error, TrainingError):
            self.fatal = self.fatal or error
        elif isinstance(error, TrainingError):
            self.fail(number, error.what)
        else:
            super().crashed(number, error)

    def completed(self, number: int) -> None:
        """Records that a trial has written its bundle or was stopped; removes bundles that are not the best."""
        trial = self.record.trials[number - 1]
        if self.fatal or trial.is_over:
            return
        if not (output_of(self._configs[number]) / MANIFEST).is_file():
            line = f"stopped after epoch {max(trial.epochs, default=0)}: others were better"
            self.update(number, line, state="stopped")
            return
        best = self.record.with_trial(number, state="finished").best
        assert best
        rank = "the best so far" if best.number == number else f"trial {best.number} has {_score_text(best.score)}"
        self.update(number, f"finished: {_score_text(trial.score)}, {rank}", state="finished")
        for other in self.record.trials:
            if other.state == "finished" and other.number != best.number:
                shutil.rmtree(output_of(self._configs[other.number]), ignore_errors=True)


def _score_text(score: float | None) -> str:
    return f"dev score {score:.4f}" if score is not None else "no score"
