"""Spans of characters as tags of pieces, and the tags of pieces as spans of characters."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from agent.segmentation import LineEnd, Pieces, ends_entity
from agent.spans import OUTSIDE, Span


class Group(NamedTuple):
    """Pieces `first` to `last` (inclusive) that carry one label."""

    label: str
    first: int
    last: int


def tags_of(pieces: Pieces, spans: Iterable[Span]) -> list[str]:
    """IOB2 tags of pieces: the nearest that they can say of spans whose edges lie within a piece.

    A piece at the edge of a span belongs to it when more of it lies inside than outside; a span has at least one piece, unless
    those that it touches belong to the span before.

    Args:
        pieces: Of one text.
        spans: Characters of the text, ascending, none overlapping another.
    """
    tags, free = [OUTSIDE] * len(pieces.starts), 0
    for start, end, label in spans:
        first = max(free, bisect_right(pieces.ends, start))
        last = bisect_left(pieces.starts, end) - 1
        if first < last and start - pieces.starts[first] > pieces.ends[first] - start:
            first += 1
        if first < last and pieces.ends[last] - end > end - pieces.starts[last]:
            last -= 1
        if first <= last:
            tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
            free = last + 1
    return tags


def groups_of(
    tags: Iterable[str], pieces: Pieces, text: str, *, line_end: LineEnd, outside: bool = False
) -> list[Group]:
    """Neighbouring pieces of one label, by the rules of conlleval: an `I-` that continues nothing begins.

    Args:
        tags: One for each piece.
        pieces: Of the text; what stands between two of them may end an entity.
        text: The text.
        line_end: What a single line end does.
        outside: Whether pieces without a label make groups too.
    """
    found: list[Group] = []
    label, first, before = "", 0, -2
    for place, tag in enumerate(tags):
        if tag == OUTSIDE and not outside:
            continue
        own = tag[2:] or tag
        continues = own == label and place == before + 1 and not tag.startswith("B-")
        if continues and not ends_entity(text, pieces.ends[before], pieces.starts[place], line_end=line_end):
            before = place
            continue
        if label:
            found.append(Group(label, first, before))
        label, first, before = own, place, place
    if label:
        found.append(Group(label, first, before))
    return found
