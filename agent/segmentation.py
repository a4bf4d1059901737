"""Cuts raw text into pieces, the units that get one label each; training, report, compression and serving use this one.

A piece is a run of sub-words. With `words` it is a run of letters, digits and combining marks, or one other sign; signs that the training data
never cuts at join what stands around them (`Jean-Claude`, `U.S.`); scripts without blanks between words are cut at every sub-word. With `subwords` every sub-word is a piece, for languages whose names have endings and clitics glued on.
Either way no piece begins within a character or behind the base of a combining mark, and an address (e-mail, URL) is one piece.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from pydantic import Field

from agent.config.base import Config

Offsets = Sequence[tuple[int, int]]
WordEdges = tuple[tuple[int, int], ...]
Unit = Literal["words", "subwords"]
LineEnd = Literal["joins", "ends", "wrapped"]
LINE_END_HELP = (
    "what a single line end does to an entity: joins, as a blank does; ends it; wrapped: joins where the line is full (the next word would have "
    "made it longer than the text's longest line, of 40 columns at least), else ends"
)


class Segmentation(Config):
    """How an agent cuts text; its bundle records it."""

    pieces: Unit = Field("words", description="what gets a label of its own: every word and sign, or every sub-word")
    joins: str = Field("", description="signs that join letters and digits on both sides to one word")
    abbreviations: bool = Field(
        False, description="whether the dot behind a single letter, or behind U.S, is of the word"
    )
    line_end: LineEnd = Field("wrapped", description=LINE_END_HELP)

    @property
    def told(self) -> str:
        """For people, in one line."""
        return ", ".join(f"{name}={value}" for name, value in self.model_dump().items())


class Pieces(NamedTuple):
    """The pieces of one text, ascending.

    Attributes:
        firsts: Index of the sub-word that speaks for each piece; -1 for a given word that has no sub-word.
        starts, ends: Characters of the text that each covers, `ends` exclusive.
    """

    firsts: list[int]
    starts: list[int]
    ends: list[int]


class GivenWords(str):
    """A text that its caller has cut into words: the words joined by single blanks. Each word is one piece.

    Args:
        words: The words, in order.
    """

    words: WordEdges

    def __new__(cls, words: Sequence[str]) -> GivenWords:
        """Joins the words."""
        text = super().__new__(cls, " ".join(words))
        text.words = word_edges(words)
        return text

    def __reduce__(self) -> tuple[type[GivenWords], tuple[list[str]]]:
        return GivenWords, ([self[start:end] for start, end in self.words],)


def word_edges(words: Sequence[str]) -> WordEdges:
    """Where words begin and end when they are joined by single blanks."""
    edges, start = [], 0
    for word in words:
        edges.append((start, start + len(word)))
        start += len(word) + 1
    return tuple(edges)


def cut(text: str, offsets: Offsets, segmentation: Segmentation) -> Pieces:
    """Cuts a text into pieces.

    Args:
        text: As it was given to the tokenizer.
        offsets: The characters of each sub-word, as the tokenizer says; those without a visible character of their own
            (white space, further bytes of a character) belong to the piece before.
        segmentation: What a piece is.
    """
    firsts: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    last, size, kinds = 0, len(text), _KINDS
    words = segmentation.pieces == "words"
    joint = _FLAG | (_WORD if words else 0)
    joins, dots = (segmentation.joins, segmentation.abbreviations) if words else ("", False)
    for index, (start, end) in enumerate(offsets):
        if start < last:
            if start == starts[-1] and end > last:  # the one before is the blank that a tokenizer puts before a text
                firsts[-1], ends[-1], last = index, end, end
                continue
            start = last  # noqa: PLW2901
        while start < end and text[start].isspace():
            start += 1  # noqa: PLW2901
        if start >= end:
            continue
        while end < size and text[end] > "\u00ac" and kinds[text[end]] & _EXTENDS:  # marks that the tokenizer drops
            end += 1  # noqa: PLW2901
        if start == last and last:
            before, after = kinds[text[start - 1]], kinds[text[start]]
            if (
                before & after & joint
                or after & _EXTENDS
                or before & _JOINER
                or (joins and _joins(text, start, joins))
                or (dots and text[start] == "." and _abbreviates(text, starts[-1], start))
            ):
                ends[-1] = last = end
                continue
        firsts.append(index)
        starts.append(start)
        ends.append(end)
        last = end
    if firsts and ("@" in text or "://" in text or "www." in text):
        return _join_addresses(text, Pieces(firsts, starts, ends))
    return Pieces(firsts, starts, ends)


def word_like(text: str, place: int) -> bool:
    """Whether a letter, a digit or a mark of a script with blanks between words stands at a place of a text."""
    return 0 <= place < len(text) and bool(_KINDS[text[place]] & _WORD)


def joining_sign(text: str, place: int) -> str:
    """The sign before or behind a place that stands between two word-like characters; empty if there is none."""
    if word_like(text, place - 1) and not word_like(text, place) and word_like(text, place + 1):
        return text[place]
    if word_like(text, place - 2) and not word_like(text, place - 1) and word_like(text, place):
        return text[place - 1]
    return ""


def _joins(text: str, place: int, signs: str) -> bool:
    sign = joining_sign(text, place)
    return sign != "" and sign in signs


def _abbreviates(text: str, start: int, dot: int) -> bool:
    """Whether the dot ends an abbreviation: it follows a single letter, or a piece with a dot inside and a single letter at its end."""
    single = text[dot - 1].isalpha() and not word_like(text, dot - 2)
    return single and (start == dot - 1 or "." in text[start:dot])


def of_words(words: WordEdges, text: str, offsets: Offsets) -> Pieces:
    """Given words as pieces: the first sub-word that begins in a word speaks for it, or else the one that reaches into it.

    Args:
        words: Where each begins and ends, ascending.
        text: As it was given to the tokenizer.
        offsets: The characters of each sub-word.
    """
    found, index = [-1] * len(words), 0
    for number, (first, last) in enumerate(words):
        while index < len(offsets) and offsets[index][1] <= first:
            index += 1
        inside = index
        while inside < len(offsets) and offsets[inside][0] < last:
            start, end = max(offsets[inside][0], first), min(offsets[inside][1], last)
            if text[start:end].strip():
                found[number] = inside
                if offsets[inside][0] >= first or not text[offsets[inside][0] : first].strip():
                    break
            inside += 1
    return Pieces(found, [start for start, _ in words], [end for _, end in words])


def ends_entity(text: str, before: int, behind: int, *, line_end: LineEnd) -> bool:
    """Whether what stands between two pieces separates entities: tabs, runs of blanks, blank lines, and single line ends as told.

    Args:
        text: The text.
        before, behind: Where the first piece ends, and where the second begins.
        line_end: What a single line end does.
    """
    gap = text[before:behind]
    if gap in ("", " "):
        return False
    if _WIDE_SEPARATOR.search(gap):
        return True
    if line_end == "joins" or not _LINES.search(gap):
        return False
    return line_end == "ends" or not _is_full(text, before, behind)


_NARROWEST = 40  # columns of wrapped text; shorter lines are lists and addresses


def _is_full(text: str, before: int, behind: int) -> bool:
    """Whether the line that ends between two places could not have taken the word behind it."""
    longest = _longest_line(text)
    line = text[max(text.rfind("\n", 0, before), text.rfind("\r", 0, before)) + 1 : before]
    word = _VISIBLE.search(text, behind)
    return longest >= _NARROWEST and _columns(line) + 1 + _columns(word[0] if word else "") > longest


@lru_cache(maxsize=16)
def _longest_line(text: str) -> int:
    """In columns."""
    return max(_columns(line.rstrip()) for line in _LINES.split(text))


def _columns(line: str) -> int:
    """The width of a line in a terminal."""
    if line.isascii():
        return len(line)
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in line)


_WORD, _FLAG, _EXTENDS, _JOINER = 1, 2, 4, 8

# Scripts that put no blanks between words: any two characters may belong to different ones. First and last code points.
_SPACELESS = (
    (0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x1B00, 0x1B7F),
    (0x2E80, 0x312F), (0x31A0, 0x9FFF), (0xA000, 0xA4CF), (0xA980, 0xA9DF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xAA80, 0xAADF),
    (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF66, 0xFF9F), (0x16F00, 0x18DFF), (0x1AFF0, 0x1B2FF), (0x20000, 0x3FFFF),
)  # fmt: skip


class _Kinds(dict[str, int]):
    """What each character is, in bits; found once and kept."""

    def __missing__(self, character: str) -> int:
        code, category = ord(character), unicodedata.category(character)
        spaceless = any(first <= code <= last for first, last in _SPACELESS)
        word = 0 if spaceless else _WORD
        if character == "\u200d":
            kind = _EXTENDS | _JOINER
        elif 0xFE00 <= code <= 0xFE0F or 0xE0020 <= code <= 0xE01EF or 0x1F3FB <= code <= 0x1F3FF:
            kind = _EXTENDS  # selectors of variants, tags and skin colours
        elif category[0] == "M" or character in "\u00ad\u200c\uff9e\uff9f":
            kind = _EXTENDS | word
        elif 0x1F1E6 <= code <= 0x1F1FF:
            kind = _FLAG
        else:
            kind = word if character.isalnum() or category == "Pc" else 0
        self[character] = kind
        return kind


_KINDS = _Kinds()

_ADDRESS = re.compile(
    r"""(?: (?:https?|ftp)://[\w$\-.+!*'(),;/?:@&=%\#~\[\]]+ | www\.[\w\-]+\.[\w$\-.+!*'(),;/?:@&=%\#~]+ | [\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+ )
        (?<![.,;:!?'()\[\]\-])""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)
_LINE_END = r"(?:\r\n|[\n\r])"
_WIDE_SEPARATOR = re.compile(rf"[\t\v\f\x1c-\x1f\x85\u2028\u2029]|(?!\ ?{_LINE_END}\ ?(?!\s))\s\s", re.VERBOSE)
_LINES = re.compile(_LINE_END)
_VISIBLE = re.compile(r"\S+")


def _join_addresses(text: str, pieces: Pieces) -> Pieces:
    """One piece of all that lie within an address."""
    inside = [match.span() for match in _ADDRESS.finditer(text)]
    if not inside:
        return pieces
    joined, place = Pieces([], [], []), 0
    for first, start, end in zip(*pieces, strict=True):
        while place < len(inside) and inside[place][1] <= start:
            place += 1
        if place < len(inside) and joined.starts and inside[place][0] <= joined.starts[-1] and start < inside[place][1]:
            joined.ends[-1] = end
        else:
            joined.firsts.append(first)
            joined.starts.append(start)
            joined.ends.append(end)
    return joined
