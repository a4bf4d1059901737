"""The rows of a run (per step, per epoch) as JSON lines in memory, and step rows aggregated over time."""

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
        """A log that begins with the lines of another."""
        log = cls()
        log.lines.extend(lines)
        return log

    def add(self, row: Row) -> None:
        """Adds a row."""
        digits = _STEP_DIGITS if row["kind"] == "step" else None
        values = {name: _json_value(value, digits) for name, value in row.items()}
        self.lines.append(json.dumps(values, separators=(",", ":"), ensure_ascii=False, allow_nan=False))


def step_rows(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The step rows among JSON lines; null becomes NaN again."""
    rows = map(json.loads, lines)
    return [
        {name: math.nan if value is None else value for name, value in row.items()}
        for row in rows
        if row["kind"] == "step"
    ]


class StepAggregator:
    """Aggregates step rows over a period, so that reporting them costs a step next to nothing.

    Args:
        every_s: Seconds of training that one aggregated row covers, at least.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s, self._seconds = every_s, 0.0
        self._rows: list[Row] = []

    def add(self, row: Row) -> dict[str, Any] | None:
        """Adds a step row; returns an aggregated one when the period is over."""
        self._rows.append(row)
        self._seconds += row["seconds"]
        return self.flush() if self._seconds >= self._every_s else None

    def flush(self) -> dict[str, Any] | None:
        """Aggregates the rows since the last aggregated one, if there are any."""
        rows, self._rows, self._seconds = self._rows, [], 0.0
        return aggregate(rows) if rows else None


def aggregate(rows: Sequence[Row]) -> dict[str, Any]:
    """Aggregates step rows, aggregated ones too, into one with their rates.

    Returns:
        The last row, where costs are sums and `loss` is the mean over steps; with `steps`, `tokens_per_s`, `padding_share`,
        `host_share` and `step_seconds`.
    """
    steps = sum(row.get("steps", 1) for row in rows)
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    seconds = sums["seconds"] or math.inf  # without time the rate is 0
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


def _json_value(value: Any, digits: int | None) -> Any:
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") if digits else value
