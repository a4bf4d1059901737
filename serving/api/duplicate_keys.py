"""Refuses JSON objects that hold a key twice, which readers of one request would understand differently."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from agent.errors import RequestError


def quoted_keys(*models: type[BaseModel]) -> list[bytes]:
    """The keys that objects of these models may hold, as they stand in JSON."""
    return [f'"{name}"'.encode() for model in models for name in model.model_fields]


def refuse_duplicates(body: bytes, quoted: Sequence[bytes]) -> None:
    """Refuses objects that say one thing twice: pydantic would take the last, another reader of the same request the first.

    Only a body that holds a key's name twice is parsed a second time.

    Args:
        body: Valid JSON.
        quoted: The keys that it may hold, of `quoted_keys`.

    Raises:
        RequestError: Names the key.
    """
    if any(body.count(name) > 1 for name in quoted):
        json.loads(body, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RequestError(
                f"key {name} stands twice in one object", allowed="each key once", remedy="leave one out", field=name
            )
        found[name] = value
    return found
