"""The position and scores of a run: everything but tensors that it needs to go on, the same on every worker."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agent.tasks import Report


class EpochTotals(BaseModel):
    """Sums over the steps of an epoch and all workers; `seconds`, `host_s` and `save_s` are worker 0's."""

    model_config = ConfigDict(extra="forbid")

    steps: int = 0
    loss_sum: float = 0.0
    labelled: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    sentences: int = 0
    seconds: float = 0.0
    host_s: float = 0.0
    save_s: float = 0.0

    def add(self, row: dict[str, Any], labelled: int) -> None:
        """Adds a step row."""
        self.steps += 1
        self.loss_sum += row["loss"] * labelled
        self.labelled += labelled
        for name in ("tokens", "padded_tokens", "sentences", "seconds", "host_s"):
            setattr(self, name, getattr(self, name) + row[name])

    def summary(self) -> dict[str, float]:
        """The mean loss and the rates of an epoch row."""
        seconds = self.seconds or float("inf")
        return {
            "loss": self.loss_sum / max(1, self.labelled),
            "seconds": self.seconds,
            "tokens_per_s": self.tokens / seconds,
            "sentences_per_s": self.sentences / seconds,
            "padding_share": 1 - self.tokens / max(1, self.padded_tokens),
            "host_share": self.host_s / seconds,
            "save_share": self.save_s / seconds,
        }


class RunState(BaseModel):
    """Position and scores.

    Attributes:
        epoch: Epochs done.
        steps_in_epoch: Steps done of the epoch under way.
        step: Steps done in all.
        totals: Of the epoch under way.
        history: A row for each epoch done.
        before: Report on the test split before training.
        dev: Report on the dev split of the best epoch.
        best_epoch: Counted from 1; 0 before the first.
        stale: Epochs since the score became better; none while it is 0.
        probe_loss: Loss on a few fixed windows at this point; the loaded model must give the same.
        trackers: What trackers need to go on in the same run, such as MLflow's run id.
    """

    model_config = ConfigDict(extra="forbid")

    epoch: int = 0
    steps_in_epoch: int = 0
    step: int = 0
    totals: EpochTotals = Field(default_factory=EpochTotals)
    history: list[dict[str, float]] = Field(default_factory=list)
    before: Report | None = None
    dev: Report | None = None
    best_epoch: int = 0
    stale: int = 0
    probe_loss: float = float("nan")
    trackers: dict[str, str] = Field(default_factory=dict)

    @property
    def improved(self) -> bool:
        """Whether the last closed epoch is the best."""
        return bool(self.epoch) and self.best_epoch == self.epoch

    def close_epoch(self, report: Report, row: dict[str, float], *, min_delta: float) -> None:
        """Ends the epoch under way with its report on the dev split.

        The best epoch is the last of equals: small dev splits are soon answered in full, by a model that has yet to become sure.
        """
        self.epoch += 1
        self.steps_in_epoch, self.totals = 0, EpochTotals()
        self.history.append(row)
        if self.dev is None or report.value > self.dev.value + min_delta:
            self.dev, self.best_epoch, self.stale = report, self.epoch, 0
            return
        self.stale += self.dev.value > 0  # before anything is right there is nothing to grow worse
        if report.value == self.dev.value:
            self.dev, self.best_epoch = report, self.epoch
