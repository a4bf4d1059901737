"""Spans as the tools write them, made `{"start", "end", "label", "text"?}`; what is none is left as it is for the task to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STARTS = ("start", "start_offset", "begin", "start_char")
_ENDS = ("end", "end_offset", "end_char")
_LABELS = ("label", "entity_group", "type", "tag")
_TEXTS = ("text", "surface", "mention")


def read_spans(items: Any) -> Any:
    """The spans of a list, whatever their keys; triples `[start, end, label]` too."""
    return [_read(item) for item in items] if isinstance(items, list) else items


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
