"""Offsets of spans, told apart as characters, UTF-16 units or bytes by the text that the spans bring, and made characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.data.formats.base import Record, Unit

UNITS: tuple[Unit, ...] = ("characters", "utf16", "bytes")
UNIT_NAMES: Mapping[Unit, str] = {"characters": "characters", "utf16": "UTF-16 units", "bytes": "bytes of UTF-8"}
_SHOWN = 3


def from_characters(text: str, unit: Unit) -> Sequence[int]:
    """Offsets in a unit, by offset in characters, the end included."""
    if unit == "characters" or text.isascii():
        return range(len(text) + 1)
    edges = [0]
    for character in text:
        size = len(character.encode("utf-8", "surrogatepass")) if unit == "bytes" else 1 + (ord(character) > 0xFFFF)
        edges.append(edges[-1] + size)
    return edges


def to_characters(text: str, unit: Unit) -> Mapping[int, int] | None:
    """Offsets in characters, by offset in a unit; those within a character are absent. None if they are the same."""
    edges = from_characters(text, unit)
    return None if isinstance(edges, range) else {edge: place for place, edge in enumerate(edges)}


@dataclass(slots=True)
class OffsetEvidence:
    """What the spans of a split say of their offsets.

    Attributes:
        checked: Spans that bring their own text.
        agreeing: Of them, how many hold it, by unit.
        wrong: The first that do not hold it in characters, for people.
        beyond: Spans without text of their own for which UTF-16 units and characters differ.
    """

    checked: int = 0
    agreeing: dict[Unit, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))
    wrong: list[str] = field(default_factory=list)
    beyond: int = 0

    def see(self, record: Record) -> None:
        """Takes a record into account."""
        content, where = record
        text, spans = content.get("text"), content.get("spans")
        if not isinstance(text, str) or not isinstance(spans, list):
            return
        maps = {unit: to_characters(text, unit) for unit in UNITS} if spans else {}
        for index, span in enumerate(spans):
            if not well_formed(span) or "fragments" in span:
                continue
            if "text" not in span:
                self.beyond += maps["utf16"] is not None and _differs(span, text)
                continue
            self.checked += 1
            held = {unit: _held(span, text, places) for unit, places in maps.items()}
            for unit, found in held.items():
                self.agreeing[unit] += found is not None and _plain(found) == _plain(span["text"])
            here = held["characters"]
            if len(self.wrong) < _SHOWN and (here is None or _plain(here) != _plain(span["text"])):
                place = f"{where}: spans[{index}] {span['start']}:{span['end']}"
                self.wrong.append(f"{place} is {here!r} and should be {span['text']!r}")

    def unit(self) -> Unit | None:
        """The first unit in which every span holds its text; None if there is none."""
        return next((unit for unit in UNITS if self.agreeing[unit] == self.checked), None)


def well_formed(span: Any) -> bool:
    """Whether a span has whole numbers as its edges; what has none, the task refuses."""
    return isinstance(span, dict) and all(type(span.get(edge)) is int for edge in ("start", "end"))


def convert(span: Mapping[str, Any], places: Mapping[int, int]) -> dict[str, Any] | None:
    """A span in characters; None if an edge lies within a character or beyond the text."""
    start, end = places.get(span["start"]), places.get(span["end"])
    return None if start is None or end is None else {**span, "start": start, "end": end}


def _held(span: Mapping[str, Any], text: str, places: Mapping[int, int] | None) -> str | None:
    if places is not None:
        converted = convert(span, places)
        if converted is None:
            return None
        span = converted
    start, end = span["start"], span["end"]
    return text[start:end] if 0 <= start < end <= len(text) else None


def _plain(text: str) -> str:
    """Tools write line ends of marked text as spaces."""
    return " ".join(text.replace("\\n", " ").split())


def _differs(span: Mapping[str, Any], text: str) -> bool:
    return any(ord(character) > 0xFFFF for character in text[: span["end"]])


def first_of(messages: Iterable[str], number: int) -> str:
    """The first of many, for a message."""
    shown = list(messages)[:_SHOWN]
    return "; ".join(shown) + (f"; {number - len(shown)} more" if number > len(shown) else "")
