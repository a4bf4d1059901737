"""The record of a search for the fastest agent: what each trial tried and came to, on disk after every change. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agent.config.base import Config
from agent.files import write_file
from agent.markdown import escape, table
from compression.reporting.frontier_plot import Point, frontier


class TrialOutcome(Config):
    """What a trial came to, by what was measured after its last step.

    Attributes:
        f1: On the dev split.
        kept: Over the original's on the same.
        speed: Sentences a second over the original's, in turns.
        size_bytes: Of the model file.
    """

    f1: float
    kept: float
    speed: float
    size_bytes: int


class Trial(Config):
    """One list of steps. `number` counts from 1; `failure` says why there is no outcome."""

    number: int
    settings: Mapping[str, Any]
    state: Literal["waiting", "running", "finished", "failed"] = "waiting"
    outcome: TrialOutcome | None = None
    failure: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ("finished", "failed")

    def __str__(self) -> str:
        return " ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in self.settings.items()
        )


class SearchRecord(Config):
    """All of a search.

    Attributes:
        config: Resolved.
        bundle_digest, data_digest: Of what is compressed and of what it is measured on.
        trials: In order of number.
    """

    config: Mapping[str, Any]
    bundle_digest: str
    data_digest: str
    trials: tuple[Trial, ...]

    def write(self, file: Path) -> None:
        """Replaces the file at once, so that it is never half written."""
        write_file(file, self.model_dump_json(indent=1) + "\n")

    def changed(self, number: int, **changes: Any) -> SearchRecord:
        """The same with changes to one trial."""
        trials = [trial.model_copy(update=changes) if trial.number == number else trial for trial in self.trials]
        return self.model_copy(update={"trials": tuple(trials)})

    def best(self, max_f1_loss: float) -> Trial | None:
        """The fastest that lost no more; of equal ones the first."""
        good = [one for one in self.trials if one.outcome and one.outcome.kept >= 1 - max_f1_loss]
        return max(good, key=lambda one: (one.outcome.speed if one.outcome else 0, -one.number), default=None)

    @property
    def points(self) -> list[Point]:
        """The original and the trials, for the picture; a point is named by its trial's number."""
        found = [Point(str(one.number), one.outcome.speed, one.outcome.kept) for one in self.trials if one.outcome]
        return [Point("original", 1.0, 1.0), *found]

    @property
    def pareto(self) -> list[Trial]:
        """The trials that none beats in speed and F1 at once, the slowest first."""
        names = {point.name for point in frontier(self.points[1:])}
        found = [one for one in self.trials if str(one.number) in names]
        return sorted(found, key=lambda one: one.outcome.speed if one.outcome else 0)


def render(record: SearchRecord, max_f1_loss: float) -> list[str]:
    """Markdown of the Pareto set, and of the others below it."""
    best, pareto = record.best(max_f1_loss), record.pareto
    others = [one for one in record.trials if one not in pareto]
    lines = ["Pareto set (nothing is faster and better at once):", "", *_table(pareto, best)]
    return [*lines, "", "Others:", "", *_table(others, best)] if others else lines


def _table(trials: Sequence[Trial], best: Trial | None) -> list[str]:
    head = ("trial", "settings", "dev F1", "kept", "speed", "MB")
    return table([head, *(_row(one, one == best) for one in trials)], num_text_columns=2)


def _row(trial: Trial, is_best: bool) -> tuple[str, ...]:
    name, settings = f"**{trial.number}, the best**" if is_best else str(trial.number), str(trial)
    if trial.outcome is None:
        return name, settings, f"{trial.state} {escape(trial.failure)}", "", "", ""
    found = trial.outcome
    size = f"{found.size_bytes / 1e6:.1f}"
    return name, settings, f"{found.f1:.4f}", f"{found.kept:.2%}", f"{found.speed:.2f}x", size
