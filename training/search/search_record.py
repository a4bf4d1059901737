"""The record of a search: what each trial tried and scored, on disk after every change. Starts nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agent.config.base import Config
from agent.markdown import escape, table


class Trial(Config):
    """One training run of a search.

    Attributes:
        number: Counted from 1.
        settings: Key to value, where it differs from the others.
        state: `running` is what an interrupted search leaves; `stopped` trials were too far behind to go on.
        epochs: Number of the epoch to its score on the dev split.
        failure: Why it failed.
    """

    number: int
    settings: Mapping[str, Any]
    state: Literal["waiting", "running", "finished", "stopped", "failed"] = "waiting"
    epochs: Mapping[int, float] = Field(default_factory=dict)
    failure: str = ""

    @property
    def score(self) -> float | None:
        """Of its best epoch."""
        return max(self.epochs.values(), default=None)

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self.state in ("finished", "stopped", "failed")


class SearchRecord(Config):
    """All of a search.

    Attributes:
        config: The search's resolved configuration.
        data_digest: Of the data that trials train on.
        trials: In order of number.
    """

    config: Mapping[str, Any]
    data_digest: str
    trials: tuple[Trial, ...]

    def write(self, file: Path) -> None:
        """Replaces the file at once, so that it is never half written."""
        draft = file.with_suffix(".draft")
        draft.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.replace(draft, file)

    @classmethod
    def read(cls, file: Path) -> SearchRecord:
        """Reads what `write` wrote."""
        return cls.model_validate_json(file.read_bytes())

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best score on the dev split; of equal ones the first."""
        done = [trial for trial in self.trials if trial.state == "finished"]
        return max(done, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)

    def changed(self, number: int, **changes: Any) -> SearchRecord:
        """The same with changes to one trial."""
        trials = [trial.model_copy(update=changes) if trial.number == number else trial for trial in self.trials]
        return self.model_copy(update={"trials": tuple(trials)})


def render_table(record: SearchRecord) -> list[str]:
    """Markdown of all trials, the best first."""
    keys = sorted({key for trial in record.trials for key in trial.settings})
    order = sorted(record.trials, key=lambda trial: (trial != record.best, -(trial.score or 0.0), trial.number))
    head = ["trial", *map(escape, keys), "epochs", "dev, best epoch"]
    return table([head, *[_row(trial, keys, best=trial == record.best) for trial in order]])


def show(settings: Mapping[str, Any]) -> str:
    """Settings as they are given on the command line."""
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )


def _row(trial: Trial, keys: Sequence[str], *, best: bool) -> list[str]:
    name = f"**{trial.number}, the best**" if best else f"{trial.number}, {trial.state}"
    told = f"{name}: {escape(trial.failure)}" if trial.failure else name
    score = "" if trial.score is None else f"{trial.score:.4f}"
    return [told, *(escape(str(trial.settings.get(key, ""))) for key in keys), str(max(trial.epochs, default=0)), score]
