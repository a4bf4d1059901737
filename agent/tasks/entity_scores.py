"""Scores entities: exact characters and label first, seqeval's strict score over the data's own words beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from agent.spans import Span
from agent.tasks.base import Report

MODE = "exact characters and label"
ON_WORDS = "seqeval_f1"
"""The metric of the data's own words, in reports of data that came as words."""


class _Rates(NamedTuple):
    """Of one label or of all.

    Attributes:
        support: Gold entities.
    """

    precision: float
    recall: float
    f1: float
    support: int


def score_entities(
    labels: Sequence[str],
    gold: Sequence[Sequence[Span]],
    found: Sequence[Sequence[Span]],
    tags: Sequence[tuple[list[str], list[str]]],
) -> Report:
    """Compares entities.

    Args:
        labels: Of the task.
        gold, found: Entities of each text.
        tags: Gold and found IOB2 tags of texts whose data came as words.
    """
    wanted, said, right = (Counter[str]() for _ in range(3))
    for ours, theirs in zip(gold, found, strict=True):
        wanted.update(span.label for span in ours)
        said.update(span.label for span in theirs)
        right.update(span.label for span in set(ours) & set(theirs))
    total = _rates(right.total(), said.total(), wanted.total())
    known = [label for label in labels if wanted[label] or said[label]]
    rows = {label: _rates(right[label], said[label], wanted[label]) for label in known}
    metrics = {"f1": total.f1, "precision": total.precision, "recall": total.recall}
    metrics |= {f"f1.{label}": rates.f1 for label, rates in rows.items()}
    text = _table(rows, total) + f"\n{MODE}, as a caller gets them: F1 {total.f1:.4f}\n"
    if tags:
        metrics[ON_WORDS] = seqeval_f1(tags)
        difference = total.f1 - metrics[ON_WORDS]
        text += f"on the data's own words (seqeval, strict, IOB2): F1 {metrics[ON_WORDS]:.4f}, difference {difference:+.4f}\n"
    return Report(metrics=metrics, primary="f1", support=total.support, text=text, mode=MODE)


def seqeval_f1(tags: Sequence[tuple[list[str], list[str]]]) -> float:
    """Micro-averaged F1 of gold and found IOB2 tags, of entities as seqeval's strict mode finds them.

    `seqeval.metrics.f1_score` gives the same number, but importing it imports scikit-learn, which takes every process 2 s.
    """
    from seqeval.scheme import IOB2, Entities

    gold, found = (
        {entity for row in Entities(list(rows), IOB2).entities for entity in row} for rows in zip(*tags, strict=True)
    )
    right = len(gold & found)
    precision, recall = right / len(found) if found else 0.0, right / len(gold) if gold else 0.0
    return 2 * precision * recall / (precision + recall) if right else 0.0


def _rates(right: int, said: int, wanted: int) -> _Rates:
    precision, recall = right / said if said else 0.0, right / wanted if wanted else 0.0
    return _Rates(precision, recall, 2 * right / (said + wanted) if said + wanted else 0.0, wanted)


def _table(rows: dict[str, _Rates], total: _Rates) -> str:
    """The rates of each label and of all, in the columns of scikit-learn's report."""
    width = max(12, *map(len, rows)) if rows else 12
    lines = [f"{'':>{width}}  precision    recall  f1-score   support", ""]
    for name, rates in {**rows, "all": total}.items():
        numbers = "".join(f"{rate:>10.4f}" for rate in rates[:3])
        lines.append(f"{name:>{width}} {numbers}{rates.support:>10}")
    return "\n".join(lines) + "\n"
