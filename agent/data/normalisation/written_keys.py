"""Texts with what is written of them: our names for what collections of summaries and prompts call theirs, and conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEYS = (
    ("text", "target"), ("text", "summary"), ("document", "summary"), ("article", "highlights"), ("prompt", "completion"),
)  # fmt: skip
_SPANS = frozenset({"spans", "entities", "tokens", "label", "labels"})  # beside which a summary is none to write


def is_written(record: Mapping[str, Any]) -> bool:
    """Whether an object is a text with another one, or a conversation."""
    return "messages" in record or (not _SPANS & set(record) and _names(record) is not None)


def read_written(record: dict[str, Any]) -> dict[str, Any]:
    """Both texts by our names, or a conversation as it is; what else stands there is left out."""
    if "messages" in record:
        return {"messages": record["messages"]}
    if (names := _names(record)) is None:
        return record  # the task says what is missing
    logged = {key: record[key] for key in ("propensity", "reward") if key in record}  # which the task refuses
    return {"text": record[names[0]], "target": record[names[1]]} | logged


def _names(record: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((names for names in _KEYS if set(names) <= set(record)), None)
