"""The record of a compression search: what each trial tried and measured, its best trial, Pareto set and table."""

from __future__ import annotations

from collections.abc import Sequence

from agent.config.base import Config
from agent.markdown import escape, table
from cluster.tuning import BaseRecord, BaseTrial
from compression.reporting.frontier_plot import Point, frontier


class TrialOutcome(Config):
    """What was measured after a trial's last step.

    Attributes:
        score: On the dev split.
        kept: Score as a fraction of the original's on the same split.
        speed: Sentences per second as a multiple of the original's, measured in turns.
        size_bytes: Of the model file.
    """

    score: float
    kept: float
    speed: float
    size_bytes: int


class CompressionTrial(BaseTrial):
    """One list of compression steps with its outcome."""

    outcome: TrialOutcome | None = None


class CompressionSearchRecord(BaseRecord):
    """All trials of a search.

    Attributes:
        bundle_digest: Of the agent that is compressed.
    """

    bundle_digest: str
    trials: tuple[CompressionTrial, ...]

    def best(self, max_score_loss: float) -> CompressionTrial | None:
        """The fastest trial that lost no more; of equal ones the first."""
        good = [trial for trial in self.trials if trial.outcome and trial.outcome.kept >= 1 - max_score_loss]
        return max(good, key=lambda trial: (trial.outcome.speed if trial.outcome else 0, -trial.number), default=None)

    @property
    def points(self) -> list[Point]:
        """The original and the trials, for the plot; a point is named by its trial's number."""
        found = [
            Point(str(trial.number), trial.outcome.speed, trial.outcome.kept) for trial in self.trials if trial.outcome
        ]
        return [Point("original", 1.0, 1.0), *found]

    @property
    def pareto(self) -> list[CompressionTrial]:
        """The trials that no other beats in both speed and score, the slowest first."""
        names = {point.name for point in frontier(self.points[1:])}
        found = [trial for trial in self.trials if str(trial.number) in names]
        return sorted(found, key=lambda trial: trial.outcome.speed if trial.outcome else 0)


def render(record: CompressionSearchRecord, max_score_loss: float) -> list[str]:
    """Markdown of the Pareto set, and of the others below it."""
    best, pareto = record.best(max_score_loss), record.pareto
    others = [one for one in record.trials if one not in pareto]
    lines = ["Pareto set (nothing is faster and better at once):", "", *_table(pareto, best)]
    return [*lines, "", "Others:", "", *_table(others, best)] if others else lines


def _table(trials: Sequence[CompressionTrial], best: CompressionTrial | None) -> list[str]:
    head = ("trial", "settings", "dev score", "kept", "speed", "MB")
    return table([head, *(_row(one, one == best) for one in trials)], num_text_columns=2)


def _row(trial: CompressionTrial, is_best: bool) -> tuple[str, ...]:
    name, settings = f"**{trial.number}, the best**" if is_best else str(trial.number), str(trial)
    if trial.outcome is None:
        return name, settings, f"{trial.state} {escape(trial.failure)}", "", "", ""
    found = trial.outcome
    size = f"{found.size_bytes / 1e6:.1f}"
    return name, settings, f"{found.score:.4f}", f"{found.kept:.2%}", f"{found.speed:.2f}x", size
