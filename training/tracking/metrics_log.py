"""What a run went through: its rows as JSON lines in memory, and step rows joined into fewer. Writes no file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

Row = Mapping[str, Any]
"""A row of a run. Its `kind` is `step`, `epoch` or `test`; the other values are numbers."""

_STEP_DIGITS = 7  # what a float32 holds; there are many step rows, the others keep every digit
_SUMS = ("tokens", "padded_tokens", "sentences", "seconds", "host_s")


class MetricsLog:
    """The rows of a run in their order.

    Attributes:
        lines: One JSON object each; a number that is not finite is null.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    @classmethod
    def load(cls, lines: Iterable[str]) -> Self:
        """A journal that goes on where another stopped."""
        journal = cls()
        journal.lines.extend(lines)
        return journal

    def add(self, row: Row) -> None:
        """Notes a row."""
        digits = _STEP_DIGITS if row["kind"] == "step" else None
        plain = {name: _plain(value, digits) for name, value in row.items()}
        self.lines.append(json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def step_rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The step rows of a journal; null is NaN again."""
    return _rows(lines, "step")


def epoch_rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The epoch rows of a journal; null is NaN again."""
    return _rows(lines, "epoch")


class Joiner:
    """Joins step rows until they are worth showing: whoever shows them costs a step next to nothing.

    Args:
        every_s: Seconds of training that one joined row stands for, at least.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s, self._seconds = every_s, 0.0
        self._rows: list[Row] = []

    def add(self, row: Row) -> dict[str, Any] | None:
        """Takes a step row; returns a joined one when it is time."""
        self._rows.append(row)
        self._seconds += row["seconds"]
        return self.rest() if self._seconds >= self._every_s else None

    def rest(self) -> dict[str, Any] | None:
        """Joins what has come since the last joined row, if anything has."""
        rows, self._rows, self._seconds = self._rows, [], 0.0
        return join(rows) if rows else None


def join(rows: Sequence[Row]) -> dict[str, Any]:
    """Joins step rows, joined ones too, into one that has their rates as well.

    Returns:
        The last row, where costs are sums and `loss` is the mean over steps; with `steps`, `tokens_per_s`, `padding_share`,
        `host_share` and `step_seconds`.
    """
    steps = sum(row.get("steps", 1) for row in rows)
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    seconds = sums["seconds"] or math.inf  # of no time no rate can be told: it is 0
    return {
        **rows[-1],
        **sums,
        "steps": steps,
        "loss": sum(row["loss"] * row.get("steps", 1) for row in rows) / steps,
        "tokens_per_s": sums["tokens"] / seconds,
        "padding_share": 1 - sums["tokens"] / max(1, sums["padded_tokens"]),
        "host_share": sums["host_s"] / seconds,
        "step_seconds": sums["seconds"] / steps,
    }


def _plain(value: Any, digits: int | None) -> Any:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") if digits else value


def _rows(lines: Iterable[str], kind: str) -> list[dict[str, Any]]:
    rows = map(json.loads, lines)
    return [
        {name: math.nan if value is None else value for name, value in row.items()}
        for row in rows
        if row["kind"] == kind
    ]
