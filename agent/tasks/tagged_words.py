"""Words with a tag each, read from what people label: tokens with tags, or a text with spans of characters."""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from agent.errors import DataError
from agent.spans import OUTSIDE, Span, encode_spans, split_tag, to_iob2
from agent.tasks.base import Example, check_unicode, require_text

_SHAPE = '{"tokens": [...], "tags": [...]} or {"text": "...", "spans": [{"start", "end", "label"}]}'


class TaggedWords(Example):
    """Words with their IOB2 tags. `text` is the original text when the data had one."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str | None = None


def read_tagged_words(record: Mapping[str, Any], where: str) -> TaggedWords:
    """Reads `{"tokens", "tags"}` or `{"text", "spans"}`; tags may be of any scheme of the IOB family.

    Raises:
        DataError: Names `where`, what is wrong and how to mend it.
    """
    if "tokens" in record:
        return _read_tokens(record, where)
    text = require_text(record, "text", where, _SHAPE)
    words, tags = _align(text, _read_spans(record, text, where), where)
    return TaggedWords(where=where, words=words, tags=tags, text=text)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Leaves out white space at both ends: byte-level tokenizers count the space before a word to it."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _read_tokens(record: Mapping[str, Any], where: str) -> TaggedWords:
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
    return TaggedWords(where=where, words=tuple(tokens), tags=tuple(to_iob2(tags)))


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


@cache
def _word_pattern() -> re.Pattern[str]:
    r"""A run of letters, digits and combining marks (which `\w` leaves out), or one other visible character."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[\w{re.escape(marks)}]+|\S")


def _align(text: str, spans: Sequence[Span], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words of a text, cut at the edges of spans too, with their tags: no span loses a character."""
    edges = sorted({edge for span in spans for edge in span[:2]} | {0, len(text)})
    pieces = [
        match.span()
        for first, last in itertools.pairwise(edges)
        for match in _word_pattern().finditer(text, first, last)
    ]
    starts = [start for start, _ in pieces]
    words = [
        Span(int(np.searchsorted(starts, span.start)), int(np.searchsorted(starts, span.end)), span.label)
        for span in spans
    ]
    try:
        tags = encode_spans(words, len(pieces))
    except ValueError as error:  # a span of invisible characters only
        raise DataError(f"{where}: {error}", allowed="spans over words", remedy="mend the offsets") from None
    return tuple(text[start:end] for start, end in pieces), tuple(tags)
