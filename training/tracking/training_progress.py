"""Progress of a run as people see it: a bar on a terminal, plain lines in a log. Keeps nothing of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from training.tracking.metrics_log import Joiner, Row, join

_BAR_EVERY_S = 0.5
_LINE_EVERY_S = 10.0
_RECENT_S = 30.0  # what rates and the time left are told from: an older pace says little of the one to come


class Progress:
    """Shows steps done. Ray carries the bar of a remote worker to the driver's terminal.

    Args:
        total: Steps in all.
        show: False on all workers but the first.
        interactive: Whether the driver writes to a terminal.
        done: Steps that an earlier run did, where this one goes on.
    """

    def __init__(self, total: int, *, show: bool, interactive: bool, done: int = 0) -> None:
        self._total, self._show, self._done = total, show, done
        self._joiner = Joiner(_BAR_EVERY_S if interactive else _LINE_EVERY_S)
        self._recent: deque[dict[str, Any]] = deque()
        self._bar = _bar(total, done) if show and interactive else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            if rest := self._joiner.rest():
                self._render(rest)
            self._bar.close()

    def advance(self, row: Row) -> None:
        """Counts one step, given as its step row."""
        if self._show and (joined := self._joiner.add(row)):
            self._render(joined)

    def note(self, line: str) -> None:
        """Prints a line of its own."""
        if self._show:
            print(line, flush=True)

    def _render(self, joined: dict[str, Any]) -> None:
        self._done += joined["steps"]
        recent = self._pace(joined)
        if self._bar is not None:  # which tells the steps and the time left itself
            self._bar.set_description(", ".join(_figures(joined, recent)))
            self._bar.update(joined["steps"])
        else:
            left = recent["step_seconds"] * (self._total - self._done)
            epoch, *others = _figures(joined, recent)
            self.note("  ".join([epoch, f"step {self._done}/{self._total}", *others, f"{duration(left)} left"]))

    def _pace(self, joined: dict[str, Any]) -> dict[str, Any]:
        self._recent.append(joined)
        while sum(row["seconds"] for row in self._recent) - self._recent[0]["seconds"] >= _RECENT_S:
            self._recent.popleft()
        return join(self._recent)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _figures(joined: Mapping[str, Any], recent: Mapping[str, Any]) -> list[str]:
    return [
        f"epoch {joined['epoch']:.2f}",
        f"loss {joined['loss']:.4f}",
        f"{recent['tokens_per_s']:,.0f} tokens/s",
        f"padding {recent['padding_share']:.1%}",
    ]


def _bar(total: int, done: int) -> Any:
    from ray.experimental import tqdm_ray

    bar = tqdm_ray.tqdm(total=total, desc="training", unit="step", flush_interval_s=0)  # rows come joined already
    bar.update(done)
    return bar
