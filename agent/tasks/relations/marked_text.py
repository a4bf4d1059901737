"""A text in which two entities are marked inline: `<e1>Anna</e1> works for <e2>Acme</e2>.`, read and checked, and as the model sees it."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

ALLOWED = "a text in which <e1>...</e1> and <e2>...</e2> stand once each, neither inside the other"
_MARKER = re.compile(r"</?e[12]>")
_MARKERS = ("<e1>", "</e1>", "<e2>", "</e2>")
_SIGNS = {"1": "@", "2": "#"}  # around an entity: punctuation that every vocabulary has (arXiv 2102.01373)
_OWN_SIGNS = str.maketrans("@#", "**")  # those of the text itself must not look like marks


class MarkerError(ValueError):
    """Two entities are not marked as they have to be; says what is wrong."""


class Entity(NamedTuple):
    """A marked entity: `number` is 1 or 2; characters of the text without markers."""

    number: str
    start: int
    end: int


class MarkedText(NamedTuple):
    """A text without its markers, and the two entities in the order of the text."""

    text: str
    entities: tuple[Entity, Entity]


class ModelText(NamedTuple):
    """What the model sees: the text with signs around its entities.

    Attributes:
        text: To be tokenised.
        start, end: Characters from the sign before the first entity to the one behind the second.
    """

    text: str
    start: int
    end: int


def read_markers(marked: str) -> MarkedText:
    """The text and the entities of a marked text.

    Raises:
        MarkerError: A marker is missing or stands twice, or an entity is empty or lies in the other one.
    """
    found = list(_MARKER.finditer(marked))
    _check_number(found)
    first, second = found[:2], found[2:]
    for opening, closing in (first, second):
        if opening[0].startswith("</") or closing[0] != opening[0].replace("<", "</"):
            names = " ".join(marker[0] for marker in found)
            raise MarkerError(f"its markers stand in the order {names}")
        if not marked[opening.end() : closing.start()].strip():
            raise MarkerError(f"the entity between {opening[0]} and {closing[0]} is empty")
    pieces, entities, done = list[str](), list[Entity](), 0
    length = 0
    for opening, closing in (first, second):
        before, inside = marked[done : opening.start()], marked[opening.end() : closing.start()]
        start = length + len(before)
        entities.append(Entity(opening[0][2], start, start + len(inside)))
        pieces += [before, inside]
        length, done = start + len(inside), closing.end()
    return MarkedText("".join([*pieces, marked[done:]]), (entities[0], entities[1]))


def holds_marker(text: str) -> bool:
    """Whether anything in a text is a marker, right or wrong."""
    return _MARKER.search(text) is not None


def mark(text: str, first: tuple[int, int], second: tuple[int, int]) -> str:
    """Writes markers into a text: `<e1>` around the first span of characters and `<e2>` around the second, wherever they stand.

    Raises:
        MarkerError: A span is empty, lies outside of the text or overlaps the other, or the text holds a marker itself.
    """
    if own := _MARKER.search(text):
        raise MarkerError(f"the text itself holds {own[0]} (character {own.start()})")
    spans = sorted([Entity("1", *first), Entity("2", *second)], key=lambda entity: entity[1:])
    for number, start, end in spans:
        if not 0 <= start < end <= len(text):
            raise MarkerError(
                f"entity e{number} {start}:{end} is no part of the text, which has {len(text)} characters"
            )
        if not text[start:end].strip():
            raise MarkerError(f"entity e{number} {start}:{end} holds only blanks")
    if spans[1].start < spans[0].end:
        raise MarkerError(f"entities e1 {first[0]}:{first[1]} and e2 {second[0]}:{second[1]} overlap")
    pieces, done = list[str](), 0
    for number, start, end in spans:
        pieces += [text[done:start], f"<e{number}>", text[start:end], f"</e{number}>"]
        done = end
    return "".join([*pieces, text[done:]])


def model_text(marked: MarkedText) -> ModelText:
    """The text with `@` on both sides of entity 1 and `#` on both sides of entity 2, parted from it by blanks.

    A text's own `@` and `#` become `*`, so that these signs mark entities and nothing else.
    """
    text, written, done, edges = marked.text.translate(_OWN_SIGNS), "", 0, list[int]()
    for number, start, end in marked.entities:
        written += _gap(written, text[done:start]) + text[done:start]
        written += _gap(written, _SIGNS[number])
        edges.append(len(written))
        written += f"{_SIGNS[number]} {text[start:end].strip()} {_SIGNS[number]}"
        edges.append(len(written))
        done = end
    return ModelText(written + _gap(written, text[done:]) + text[done:], edges[0], edges[-1])


def _gap(left: str, right: str) -> str:
    """A blank between two parts where neither has one there."""
    return " " if left and right and not left[-1].isspace() and not right[0].isspace() else ""


def _check_number(found: list[re.Match[str]]) -> None:
    counts = Counter(marker[0] for marker in found)
    if not counts:
        raise MarkerError("no entity is marked")
    for marker in _MARKERS:
        if counts[marker] != 1:
            places = ", ".join(str(one.start()) for one in found if one[0] == marker)
            told = f"stands {counts[marker]} times (characters {places})" if places else "is missing"
            raise MarkerError(f"{marker} {told}")
