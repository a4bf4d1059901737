"""The record of a hyper-parameter search: what each trial tried and scored, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from agent.markdown import escape, table
from cluster.tuning import BaseRecord, BaseTrial


class Trial(BaseTrial):
    """One training run of a search.

    Attributes:
        epochs: Number of the epoch to its score on the dev split.
    """

    epochs: Mapping[int, float] = Field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """The score of its best epoch."""
        return max(self.epochs.values(), default=None)


class SearchRecord(BaseRecord):
    """All trials of a search."""

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best score on the dev split; of equal ones the first."""
        done = [trial for trial in self.trials if trial.state == "finished"]
        return max(done, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)


def render_table(record: SearchRecord) -> list[str]:
    """Markdown of all trials, the best first."""
    keys = sorted({key for trial in record.trials for key in trial.settings})
    order = sorted(record.trials, key=lambda trial: (trial != record.best, -(trial.score or 0.0), trial.number))
    head = ["trial", *map(escape, keys), "epochs", "dev, best epoch"]
    return table([head, *[_row(trial, keys, best=trial == record.best) for trial in order]])


def _row(trial: Trial, keys: Sequence[str], *, best: bool) -> list[str]:
    name = f"**{trial.number}, the best**" if best else f"{trial.number}, {trial.state}"
    first = f"{name}: {escape(trial.failure)}" if trial.failure else name
    score = "" if trial.score is None else f"{trial.score:.4f}"
    settings = [escape(str(trial.settings.get(key, ""))) for key in keys]
    return [first, *settings, str(max(trial.epochs, default=0)), score]
