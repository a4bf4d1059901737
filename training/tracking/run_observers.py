"""Passes the rows of a run to its metrics log, progress, Ray metrics and trackers; active on worker 0 only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from agent.tasks import Report
from training.state.run_state import RunState
from training.tracking.metrics_log import MetricsLog
from training.tracking.ray_metrics import RayMetrics
from training.tracking.trackers import Trackers, TrackingConfig
from training.tracking.training_progress import TrainingProgress


@dataclass(frozen=True)
class RunInfo:
    """What observers show of a run.

    Attributes:
        name: Of the output.
        num_steps: Of the whole run.
        restarts: Worker groups before this one.
        tracking: Which trackers.
        parameters: The run's configuration.
        interactive: Whether the driver writes to a terminal.
    """

    name: str
    num_steps: int
    restarts: int
    tracking: TrackingConfig
    parameters: Mapping[str, Any]
    interactive: bool


class RunObservers:
    """Passes every row to all observers.

    Args:
        run: Which run.
        state: Its position at the start.
        lines: The metrics log up to there.
        active: False on all workers but the first.
    """

    def __init__(self, run: RunInfo, state: RunState, lines: Sequence[str], *, active: bool) -> None:
        self.metrics_log = MetricsLog.load(lines)
        self._stack = ExitStack()
        self._progress = TrainingProgress(run.num_steps, show=active, interactive=run.interactive, done=state.step)
        self._active = active
        if active:
            self._ray_metrics = RayMetrics(run=run.name, restarts=run.restarts)
            self._trackers = Trackers(
                run.tracking, run_name=run.name, parameters=run.parameters, state=state.trackers, done=state.step
            )

    def __enter__(self) -> Self:
        self._stack.enter_context(self._progress)
        if self._active:
            self._stack.callback(self._ray_metrics.close)
            self._stack.enter_context(self._trackers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def trackers_state(self) -> dict[str, str]:
        """What trackers need to go on in the same run."""
        return self._trackers.state if self._active else {}

    def step(self, row: dict[str, Any]) -> None:
        """Passes on a step row."""
        self._progress.advance(row)
        if self._active:
            self.metrics_log.add(row)
            self._ray_metrics.step(row)
            self._trackers.step(row)

    def epoch(self, row: dict[str, Any], *, best: bool, epochs: int, score: str) -> None:
        """Passes on an epoch row and prints it; `score` is what its dev score is called."""
        if self._active:
            self.metrics_log.add(row)
            self._ray_metrics.epoch(row)
            self._trackers.epoch(row)
        self.print_line(_epoch_line(row, epochs, best=best, score=score))

    def finish(self, before: Report, after: Report) -> None:
        """Records the scores on the test split."""
        if self._active:
            self.metrics_log.add({"kind": "test", "before": before.value, "after": after.value})
            self._trackers.finish({f"test/{name}": value for name, value in after.metrics.items()})

    def print_line(self, line: str) -> None:
        """Prints a line, on worker 0."""
        self._progress.print_line(line)


def _epoch_line(row: dict[str, Any], epochs: int, *, best: bool, score: str) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  dev {score} {row['dev_score']:.4f}{' (best)' if best else ''}  "
        f"{row['sentences_per_s']:,.0f} sentences/s  {row['tokens_per_s']:,.0f} tokens/s  padding {row['padding_share']:.1%}  "
        f"host {row['host_share']:.1%}  checkpoints {row['save_share']:.1%}  {row['seconds']:.1f} s"
    )
