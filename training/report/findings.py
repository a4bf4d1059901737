"""Counts the mistakes of an agent: confusion of labels, and the examples with most errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from agent.config.base import Config
from agent.tasks import BaseTask
from agent.tasks.pairs import Pair

_NUM_WORST = 20


class Cell(Config):
    """How often `predicted` stood where `gold` was; None is nothing.

    Attributes:
        count: All of them.
        shifted: Those whose boundaries differ.
    """

    gold: str | None
    predicted: str | None
    count: int
    shifted: int


class Case(Config):
    """A test example with its pairs. `num_errors` counts those that are not right."""

    where: str
    text: str
    num_errors: int
    pairs: tuple[Pair, ...]


class Findings(Config):
    """Mistakes on a split.

    Attributes:
        outcomes: Pairs by outcome.
        confusion: Only cells that are not zero.
        worst: Examples with most errors, equals in their order; none without an error.
        num_erroneous: Examples with an error.
    """

    outcomes: Mapping[str, int]
    confusion: tuple[Cell, ...]
    worst: tuple[Case, ...]
    num_erroneous: int


def find(task: BaseTask[Any], examples: Sequence[Any], predictions: Sequence[Any]) -> Findings:
    """Compares every example with its prediction."""
    paired = [task.pairs(example, prediction) for example, prediction in zip(examples, predictions, strict=True)]
    pairs = [pair for row in paired for pair in row]
    errors = [sum(pair.outcome != "right" for pair in row) for row in paired]
    erroneous = [index for index, count in enumerate(errors) if count]
    worst = sorted(erroneous, key=lambda index: -errors[index])[:_NUM_WORST]
    return Findings(
        outcomes=dict(Counter(pair.outcome for pair in pairs)),
        confusion=_confusion(pairs),
        worst=tuple(
            Case(
                where=examples[index].where,
                text=task.text_of(examples[index]),
                num_errors=errors[index],
                pairs=tuple(paired[index]),
            )
            for index in worst
        ),
        num_erroneous=len(erroneous),
    )


def _confusion(pairs: Sequence[Pair]) -> tuple[Cell, ...]:
    counts = Counter((pair.gold, pair.predicted) for pair in pairs)
    shifted = Counter((pair.gold, pair.predicted) for pair in pairs if pair.shifted)
    order = sorted(counts, key=lambda cell: [(label is None, label or "") for label in cell])
    return tuple(Cell(gold=g, predicted=p, count=counts[g, p], shifted=shifted[g, p]) for g, p in order)
