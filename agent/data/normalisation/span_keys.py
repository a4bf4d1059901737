"""Spans as the tools write them, made `{"start", "end", "label", "text"?}`; what is none is left as it is for the task to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import DataError

_STARTS = ("start", "start_offset", "begin", "start_char")
_ENDS = ("end", "end_offset", "end_char")
_LABELS = ("label", "entity_group", "type", "tag")
_ANNOTATIONS = ("spans", "label", "labels", "annotations")  # where tools keep those of people
_TEXTS = ("text", "surface", "mention")


def read_spans(items: Any) -> Any:
    """The spans of a list, whatever their keys; triples `[start, end, label]` too."""
    return [_read(item) for item in items] if isinstance(items, list) else items


def is_answered(record: Mapping[str, Any]) -> bool:
    """Whether a record holds what an agent found in its text, as `serving/annotate.py` writes it."""
    found = record.get("entities")
    return isinstance(found, list) and any(
        isinstance(item, Mapping) and "score" in item and {"entity_group", "entity"} & set(item) for item in found
    )


def read_answered(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The record with an agent's entities as its spans; what a tool had left empty for annotations goes.

    Raises:
        DataError: It has annotations of its own as well, or the answers are of sub-words.
    """
    found = record["entities"]
    if any(isinstance(item, Mapping) and item.get("entity") for item in found):
        raise DataError(
            f"{where}: entities are tags of sub-words",
            allowed="whole entities",
            remedy="annotate with parameters.aggregation_strategy=simple (or leave it out)",
        )
    for key in _ANNOTATIONS:
        if isinstance(record.get(key), list) and record[key] and not isinstance(record[key][0], str):
            raise DataError(
                f"{where}: annotations in field {key!r}, and an agent's answers in field 'entities'",
                allowed="one of the two",
                remedy="take the other field away",
            )
    kept = {key: value for key, value in record.items() if key not in _ANNOTATIONS or value != []}
    return {**kept, "spans": read_spans(found)}


def _read(item: Any) -> Any:
    if isinstance(item, list | tuple) and len(item) == 3:
        return dict(zip(("start", "end", "label"), item, strict=True))
    if not isinstance(item, Mapping):
        return item
    start, end, label = (_first(item, keys) for keys in (_STARTS, _ENDS, _LABELS))
    if start is None or end is None or label is None:
        return item
    text = _first(item, _TEXTS)
    return {"start": start, "end": end, "label": label} | ({"text": text} if isinstance(text, str) else {})


def _first(item: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((item[key] for key in keys if key in item), None)
