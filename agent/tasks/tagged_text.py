"""A text with labelled spans, read from what people label: a text with spans of characters, or tokens with tags."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from agent.errors import DataError
from agent.segmentation import Pieces, word_edges
from agent.spans import OUTSIDE, Span, decode_tags, split_tag
from agent.tasks.base import Example, Join
from agent.tasks.piece_labels import tags_of
from agent.tasks.record_fields import check_unicode, require_text

_SHAPE = '{"tokens": [...], "tags": [...]} or {"text": "...", "spans": [{"start", "end", "label"}]}'


class TaggedText(Example):
    """A text with its entities.

    Attributes:
        text: As a caller would send it.
        spans: Characters of the text, ascending, none overlapping another.
        words: Where the data's own words begin and end in the text, if the data came as words.
    """

    text: str
    spans: tuple[Span, ...]
    words: tuple[tuple[int, int], ...] | None = None

    @property
    def word_texts(self) -> tuple[str, ...]:
        """The data's own words; none if the data came as text."""
        return tuple(self.text[start:end] for start, end in self.words or ())

    @property
    def tags(self) -> tuple[str, ...]:
        """IOB2 tags of the data's own words; none if the data came as text."""
        words = self.words or ()
        pieces = Pieces(list(range(len(words))), [start for start, _ in words], [end for _, end in words])
        return tuple(tags_of(pieces, self.spans))


def read_tagged_text(record: Mapping[str, Any], where: str, join: Join) -> TaggedText:
    """Reads `{"tokens", "tags"}` or `{"text", "spans"}`; tags may be of any scheme of the IOB family.

    Args:
        record: One record of a data file.
        where: Its file and line.
        join: Makes a text of words.

    Raises:
        DataError: Names `where`, what is wrong and how to mend it.
    """
    if "tokens" in record:
        return _read_tokens(record, where, join)
    text = require_text(record, "text", where, _SHAPE)
    return TaggedText(where=where, text=text, spans=tuple(_read_spans(record, text, where)))


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Leaves out white space at both ends: people select it, and byte-level tokenizers count the space before a word to it."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def place_words(words: Sequence[str], text: str) -> tuple[tuple[int, int], ...] | None:
    """Where words stand in a text made of them; None if it holds other characters than theirs and white space."""
    edges, position = [], 0
    for word in words:
        start = position
        while not text.startswith(word, start):
            if start >= len(text) or not text[start].isspace():
                return None
            start += 1
        position = start + len(word)
        edges.append((start, position))
    return None if text[position:].strip() else tuple(edges)


def _read_tokens(record: Mapping[str, Any], where: str, join: Join) -> TaggedText:
    tokens: Any = record["tokens"]
    tags: Any = record.get("tags")
    for key, value in (("tokens", tokens), ("tags", tags)):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(
                f"{where}: field {key!r} is {'absent' if value is None else 'no list of strings'}",
                allowed=_SHAPE,
                remedy="mend the record",
            )
    if len(tokens) != len(tags):
        raise DataError(
            f"{where}: {len(tokens)} tokens but {len(tags)} tags",
            allowed="one tag for each token",
            remedy="mend the record",
        )
    for token, tag in zip(tokens, tags, strict=True):
        _check_tag(token, tag, where)
    text = join(tokens)
    words = place_words(tokens, text)
    if words is None:  # the detokenizer has changed a character
        text, words = " ".join(tokens), word_edges(tokens)
    spans = (Span(words[first][0], words[last - 1][1], label) for first, last, label in decode_tags(tags))
    return TaggedText(where=where, text=text, spans=tuple(spans), words=words)


def _check_tag(token: str, tag: str, where: str) -> None:
    check_unicode(token, where)
    check_unicode(tag, where)
    try:
        _, label = split_tag(tag)
    except ValueError as error:
        raise DataError(
            f"{where}: word {token!r}: {error}", allowed="tags of IOB1, IOB2, IOBES or BILOU", remedy="mend the tag"
        ) from None
    if label == OUTSIDE:
        raise DataError(
            f"{where}: word {token!r}: tag {tag!r} has the label 'O', which is the tag of words outside of all entities",
            remedy="write 'O', or rename the label",
        )


def _read_spans(record: Mapping[str, Any], text: str, where: str) -> list[Span]:
    spans = record.get("spans")
    if not isinstance(spans, list):
        raise DataError(
            f"{where}: field 'spans' is {'absent' if spans is None else 'no list'}",
            allowed=_SHAPE,
            remedy="mend the record; a text without entities has []",
        )
    read = sorted(_read_span(span, text, f"{where}: spans[{index}]") for index, span in enumerate(spans))
    for before, after in itertools.pairwise(read):
        if after.start < before.end:
            raise DataError(
                f"{where}: span {after.start}:{after.end} {after.label} overlaps span {before.start}:{before.end} {before.label}",
                allowed="spans that do not overlap",
                remedy="keep one of the two",
            )
    return read


def _read_span(span: Any, text: str, where: str) -> Span:
    if not isinstance(span, dict) or not {"start", "end", "label"} <= set(span):
        raise DataError(
            f"{where}: {span!r} is no span",
            allowed='{"start": int, "end": int, "label": str}',
            remedy="mend the record",
        )
    start, end, label = span["start"], span["end"], span["label"]
    integers = all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, end))
    if not integers or not 0 <= start < end <= len(text):
        raise DataError(
            f"{where}: {start!r}:{end!r} is no part of a text of {len(text)} characters",
            allowed="0 <= start < end <= length, in characters",
            remedy="mend the offsets (they are not bytes)",
        )
    if not isinstance(label, str) or not label or label == OUTSIDE:
        raise DataError(
            f"{where}: label {label!r}", allowed="a non-empty string other than 'O'", remedy="mend the label"
        )
    start, end = trim(text, start, end)
    if start == end:
        raise DataError(
            f"{where}: the span holds white space only",
            allowed="a span with at least one visible character",
            remedy="mend the offsets",
        )
    check_unicode(label, where)
    return Span(start, end, label)
