"""Gold items beside what was predicted in their place: what reports count mistakes from. Scores nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from agent.config.base import Config
from agent.spans import Span

Outcome = Literal["right", "confused", "boundary", "missed", "invented"]


class Pair(Config):
    """A gold item and the predicted one in its place.

    Attributes:
        outcome: `right`; `confused`: another label, whatever its boundaries; `boundary`: the label, but other boundaries;
            `missed`: nothing predicted there; `invented`: nothing there.
        gold, predicted: Labels; None where that side has nothing.
        gold_text, predicted_text: The words of each; empty where that side has nothing.
        shifted: Whether the boundaries differ.
    """

    outcome: Outcome
    gold: str | None = None
    predicted: str | None = None
    gold_text: str = ""
    predicted_text: str = ""
    shifted: bool = False


def pair_spans(gold: Sequence[Span], predicted: Sequence[Span], text_of: Callable[[Span], str]) -> list[Pair]:
    """Pairs the spans of one text, in the order of the text; each span stands in exactly one pair.

    Spans that overlap go together, the longest overlap first; those with the same boundaries overlap no others.

    Args:
        gold, predicted: Spans that do not overlap others of their side.
        text_of: The words of a span.
    """
    partner = _partners(gold, predicted)
    rows: list[tuple[Span | None, Span | None]] = [
        (span, predicted[partner[index]] if index in partner else None) for index, span in enumerate(gold)
    ]
    taken = set(partner.values())
    rows += [(None, span) for index, span in enumerate(predicted) if index not in taken]
    rows.sort(key=lambda row: min(span.start for span in row if span))
    return [_pair(*row, text_of) for row in rows]


def _partners(gold: Sequence[Span], predicted: Sequence[Span]) -> dict[int, int]:
    """Indices of gold spans to those of predicted ones."""
    candidates = [
        (-overlap, g, p)
        for g, ours in enumerate(gold)
        for p, theirs in enumerate(predicted)
        if (overlap := _overlap(ours, theirs)) > 0
    ]
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for _, g, p in sorted(candidates):
        if g not in partner and p not in taken:
            partner[g] = p
            taken.add(p)
    return partner


def _overlap(one: Span, other: Span) -> int:
    return min(one.end, other.end) - max(one.start, other.start)


def _pair(gold: Span | None, predicted: Span | None, text_of: Callable[[Span], str]) -> Pair:
    if gold is None or predicted is None:
        return Pair(
            outcome="invented" if gold is None else "missed",
            gold=gold.label if gold else None,
            predicted=predicted.label if predicted else None,
            gold_text=text_of(gold) if gold else "",
            predicted_text=text_of(predicted) if predicted else "",
        )
    shifted = gold[:2] != predicted[:2]
    outcome: Outcome = "confused" if gold.label != predicted.label else "boundary" if shifted else "right"
    return Pair(
        outcome=outcome,
        gold=gold.label,
        predicted=predicted.label,
        gold_text=text_of(gold),
        predicted_text=text_of(predicted),
        shifted=shifted,
    )
