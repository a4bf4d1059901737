"""Tags and entity spans: the IOB family read, IOB2 inside, spans out. Knows nothing of sub-words or models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
_PREFIXES = frozenset("BIESLU")
_BEGINS = frozenset("BSU")  # S and U: an entity of one word (IOBES, BILOU)
_ENDS = frozenset("ESLU")  # E and L: the last word of an entity


class Span(NamedTuple):
    """An entity: units `start` (inclusive) to `end` (exclusive) carry `label`. Units are words or characters."""

    start: int
    end: int
    label: str


def split_tag(tag: str) -> tuple[str, str]:
    """Returns (prefix, label): `("B", "PER")` for `B-PER`, `("O", "")` for `O`.

    Raises:
        ValueError: The tag is neither `O` nor a prefix of the IOB family, a hyphen and a label.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, hyphen, label = tag.partition("-")
    if prefix not in _PREFIXES or not hyphen or not label:
        raise ValueError(f"tag {tag!r} is neither 'O' nor PREFIX-LABEL with a prefix of B, I, E, S, L, U")
    return prefix, label


def decode_tags(tags: Sequence[str]) -> list[Span]:
    """Reads tags of IOB1, IOB2, IOBES or BILOU as spans over words, by the rules of conlleval.

    An `I-` that follows `O` or another label begins an entity, so no tag sequence is invalid. Source of the rules:
    conlleval.pl of the CoNLL-2000 shared task, whose chunk boundaries these are.
    """
    spans: list[Span] = []
    start, open_label, closed = 0, "", True
    for position, tag in enumerate(tags):
        prefix, label = split_tag(tag)
        begins = bool(label) and (prefix in _BEGINS or label != open_label or closed)
        if open_label and (begins or not label):
            spans.append(Span(start, position, open_label))
            open_label = ""
        if begins:
            start, open_label = position, label
        closed = prefix in _ENDS or not label
    if open_label:
        spans.append(Span(start, len(tags), open_label))
    return spans


def encode_spans(spans: Iterable[Span], num_words: int) -> list[str]:
    """Writes spans over words as IOB2 tags, one per word.

    Raises:
        ValueError: A span is empty, lies outside of the words, or overlaps another.
    """
    tags = [OUTSIDE] * num_words
    for start, end, label in spans:
        if not 0 <= start < end <= num_words:
            raise ValueError(f"span {start}:{end} {label} is empty or lies outside of {num_words} words")
        if any(tag != OUTSIDE for tag in tags[start:end]):
            raise ValueError(f"span {start}:{end} {label} overlaps another span")
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return tags


def to_iob2(tags: Sequence[str]) -> list[str]:
    """Rewrites tags of any scheme of the IOB family as IOB2."""
    return encode_spans(decode_tags(tags), len(tags))


def tag_set(labels: Iterable[str]) -> tuple[str, ...]:
    """The IOB2 tags for entity labels: `O` first, then `B-X`, `I-X` for each label in sorted order."""
    return (OUTSIDE, *[f"{prefix}-{label}" for label in sorted(set(labels)) for prefix in "BI"])
