"""The classes of a text as fields of a record: `labels` for all of them, and `label` where there is exactly one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def with_classes(names: Sequence[str]) -> dict[str, Any]:
    """The fields of a text with these classes."""
    return {"labels": list(names)} | ({"label": names[0]} if len(names) == 1 else {})


def names_classes(value: Any) -> bool:
    """Whether a list, which is not empty, holds classes: names, or answers of an agent with their thresholds."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) or _is_answer(item) for item in value)


def read_classes(values: Sequence[Any]) -> list[str]:
    """The names; of an agent's answers those that reach their thresholds."""
    return [
        item["label"] if isinstance(item, Mapping) else item
        for item in values
        if isinstance(item, str) or item["score"] >= item["threshold"]
    ]


def _is_answer(item: Any) -> bool:
    return isinstance(item, Mapping) and {"label", "score", "threshold"} <= set(item)
