"""The aims of benchmarks/training_throughput.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.common.aim import Aim

Row = dict[str, Any]


def find_aims(rows: Sequence[Row], race: Row | None, *, tokens: int, workers_tokens: Sequence[int]) -> list[Aim]:
    """All aims, measured as far as rows and race are known.

    Args:
        rows: Of the table, each with its `stage` and `contestant`.
        race: What stage quality found.
        tokens: Ours takes part in speed with this batch, its rivals with whichever is fastest.
        workers_tokens: Batches at which several workers are compared with one.
    """
    ours = best(rows, "ours", tokens=tokens)
    race = race or {"seconds_to_goal_ratio": None, "seconds_ratio": None, "ours": {"test_f1": None}}
    return [
        Aim("sentences/s over the article's loop", over(ours, best(rows, "article")), 10),
        Aim("sentences/s over Trainer", over(ours, best(rows, "trainer")), 1.25),
        Aim("use of the matrix ceiling by real tokens", best(rows, "ours", "mfu", tokens=tokens), 0.5),
        *(scaling(rows, tokens=size) for size in workers_tokens),
        Aim("seconds to dev F1 0.90 over Trainer's", race["seconds_to_goal_ratio"], 0.8, at_least=False),
        Aim("test F1", race["ours"]["test_f1"], 0.870),
        Aim("training seconds over Trainer's", race["seconds_ratio"], 1.0, at_least=False),
    ]


def scaling(rows: Sequence[Row], *, tokens: int) -> Aim:
    """Two workers of one thread each, over one."""
    one, two = (best(rows, "workers", tokens=tokens, workers=workers) for workers in (1, 2))
    return Aim(f"sentences/s of two workers over one, {tokens:,} tokens", over(two, one), 1.8)


def best(rows: Sequence[Row], stage: str, figure: str = "sentences_per_s", **wanted: Any) -> float | None:
    """The highest figure among the rows of a stage whose contestants are as wanted."""
    fitting = (row for row in rows if row["stage"] == stage and wanted.items() <= row["contestant"].items())
    return max((row[figure] for row in fitting if figure in row), default=None)


def over(first: float | None, second: float | None) -> float | None:
    """Their ratio, if both are known."""
    return first / second if first and second else None
