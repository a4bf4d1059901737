"""Texts with two entities as the tools write them, made texts with inline markers; what is none is refused by its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import DataError
from agent.tasks.relations.marked_text import MarkerError, mark

_PAIRS = (("head", "tail"), ("e1", "e2"))
_ALLOWED = (
    '{"text": "...", "head": {"start": 0, "end": 4}, "tail": {"start": 15, "end": 19}, "label": "..."}, or e1 and e2 as [start, end]: '
    "characters of the text, neither empty nor overlapping"
)


def has_entities(record: Mapping[str, Any]) -> bool:
    """Whether an object is a text with two entities beside it."""
    return "text" in record and _names(record) is not None


def read_entities(record: dict[str, Any], where: str) -> dict[str, Any]:
    """A text with its two entities marked inline: the head, or `e1`, as entity 1.

    Raises:
        DataError: Names the place and what is wrong with an entity.
    """
    names = _names(record)
    if names is None or not isinstance(record.get("text"), str):
        return record  # the task says what is wrong
    kept = {key: value for key, value in record.items() if key not in names}
    first, second = (_span(record[name], name, where) for name in names)
    try:
        return kept | {"text": mark(record["text"], first, second)}
    except MarkerError as error:
        raise DataError(f"{where}: {error}", allowed=_ALLOWED, remedy="mend the record") from None


def _names(record: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((names for names in _PAIRS if set(names) <= set(record)), None)


def _span(value: Any, name: str, where: str) -> tuple[int, int]:
    given = (value.get("start"), value.get("end")) if isinstance(value, Mapping) else value
    if not isinstance(given, list | tuple) or len(given) != 2 or not all(type(place) is int for place in given):
        raise DataError(f"{where}: field {name!r} is {value!r}"[:300], allowed=_ALLOWED, remedy="mend the record")
    return given[0], given[1]
