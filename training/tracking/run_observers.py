"""All who follow a run, in one place: journal, progress, Ray's metrics, trackers. On all workers but the first: nobody."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from agent.tasks import Report
from training.state.run_state import RunState
from training.state.worker_io import Payload
from training.tracking.metrics_log import MetricsLog
from training.tracking.ray_metrics import RayMetrics
from training.tracking.trackers import Trackers
from training.tracking.training_progress import Progress


@dataclass(frozen=True)
class Standing:
    """Where a run stands as it starts or goes on.

    Attributes:
        total: Steps in all.
        state: Position and scores.
        lines: The journal up to there.
        restarts: Worker groups before this one.
    """

    total: int
    state: RunState
    lines: list[str]
    restarts: int


class RunObservers:
    """Hands every row to each of them.

    Args:
        payload: Of the run.
        standing: Where it stands.
        shows: False on all workers but the first.
    """

    def __init__(self, payload: Payload, standing: Standing, *, shows: bool) -> None:
        state = standing.state
        self.journal = MetricsLog.load(standing.lines)
        self._stack = ExitStack()
        self._progress = Progress(standing.total, show=shows, interactive=payload.interactive, done=state.step)
        self._gauges = RayMetrics(run=payload.run, restarts=standing.restarts) if shows else None
        self._trackers: Trackers | None = None
        if shows:
            parameters = payload.config.model_dump(mode="json")
            self._trackers = Trackers(
                payload.config.tracking,
                run_name=payload.run,
                parameters=parameters,
                state=state.trackers,
                done=state.step,
            )

    def __enter__(self) -> Self:
        self._stack.enter_context(self._progress)
        if self._gauges:
            self._stack.callback(self._gauges.close)
        if self._trackers:
            self._stack.enter_context(self._trackers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def trackers_state(self) -> dict[str, str]:
        """What trackers need to go on in the same run."""
        return self._trackers.state if self._trackers else {}

    def step(self, row: dict[str, Any]) -> None:
        """Takes a step row."""
        self._progress.advance(row)
        if self._gauges and self._trackers:
            self.journal.add(row)
            self._gauges.step(row)
            self._trackers.step(row)

    def epoch(self, row: dict[str, Any], *, best: bool, epochs: int) -> None:
        """Takes an epoch row."""
        if self._gauges and self._trackers:
            self.journal.add(row)
            self._gauges.epoch(row)
            self._trackers.epoch(row)
        self.note(_line(row, epochs, best=best))

    def finish(self, before: Report, after: Report) -> None:
        """Takes the scores on the test split."""
        if self._trackers:
            self.journal.add({"kind": "test", "before": before.value, "after": after.value})
            self._trackers.finish({f"test/{name}": value for name, value in after.metrics.items()})

    def note(self, line: str) -> None:
        """Prints a line of its own."""
        self._progress.note(line)


def _line(row: dict[str, Any], epochs: int, *, best: bool) -> str:
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.4f}  dev F1 {row['dev_f1']:.4f}{' (best)' if best else ''}  "
        f"{row['sentences_per_s']:,.0f} sentences/s  {row['tokens_per_s']:,.0f} tokens/s  padding {row['padding_share']:.1%}  "
        f"host {row['host_share']:.1%}  checkpoints {row['save_share']:.1%}  {row['seconds']:.1f} s"
    )
