"""Progress of a run: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from training.tracking.metrics_log import Row, StepAggregator, aggregate

_BAR_EVERY_S = 0.5
_LINE_EVERY_S = 10.0
_RECENT_S = 30.0  # rates and the time left are computed over this period


class TrainingProgress:
    """Shows steps done. Ray shows the bar of a remote worker on the driver's terminal.

    Args:
        total: Steps in all.
        show: False on all workers but the first.
        interactive: Whether the driver writes to a terminal.
        done: Steps done before, by the run that this one resumes.
    """

    def __init__(self, total: int, *, show: bool, interactive: bool, done: int = 0) -> None:
        self._total, self._show, self._done = total, show, done
        self._aggregator = StepAggregator(_BAR_EVERY_S if interactive else _LINE_EVERY_S)
        self._recent: deque[dict[str, Any]] = deque()
        self._bar = _bar(total, done) if show and interactive else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if rest := self._aggregator.flush():
                self._render(rest)
            self._bar.close()

    def advance(self, row: Row) -> None:
        """Counts a step."""
        if self._show and (aggregated := self._aggregator.add(row)):
            self._render(aggregated)

    def print_line(self, line: str) -> None:
        """Prints a line, if this worker shows any."""
        if self._show:
            print(line, flush=True)

    def _render(self, aggregated: dict[str, Any]) -> None:
        self._done += aggregated["steps"]
        recent = self._recent_rates(aggregated)
        if self._bar is not None:  # tqdm shows the steps and the time left
            self._bar.set_description(", ".join(_figures(aggregated, recent)))
            self._bar.update(aggregated["steps"])
        else:
            left = recent["step_seconds"] * (self._total - self._done)
            epoch, *others = _figures(aggregated, recent)
            self.print_line("  ".join([epoch, f"step {self._done}/{self._total}", *others, f"{duration(left)} left"]))

    def _recent_rates(self, aggregated: dict[str, Any]) -> dict[str, Any]:
        self._recent.append(aggregated)
        while sum(row["seconds"] for row in self._recent) - self._recent[0]["seconds"] >= _RECENT_S:
            self._recent.popleft()
        return aggregate(self._recent)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _figures(aggregated: Mapping[str, Any], recent: Mapping[str, Any]) -> list[str]:
    return [
        f"epoch {aggregated['epoch']:.2f}",
        f"loss {aggregated['loss']:.4f}",
        f"{recent['tokens_per_s']:,.0f} tokens/s",
        f"padding {recent['padding_share']:.1%}",
    ]


def _bar(total: int, done: int) -> Any:
    from ray.experimental import tqdm_ray

    bar = tqdm_ray.tqdm(total=total, desc="training", unit="step", flush_interval_s=0)  # rows are aggregated already
    bar.update(done)
    return bar
