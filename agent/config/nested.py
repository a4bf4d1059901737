"""Nested mappings, such as resolved configurations: by dotted keys, and what differs between two of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any


def flatten(tree: Mapping[str, Any], *, without: Collection[str] = ()) -> dict[str, Any]:
    """The values of a nested mapping by dotted key. Keys in `without` are left out, with all that is below them."""
    return dict(_leaves(tree, "", without))


def differences(before: Mapping[str, Any], after: Mapping[str, Any], *, without: Collection[str] = ()) -> list[str]:
    """Says for each dotted key that differs both values; an absent key equals None. `without` as for `flatten`."""
    old, new = flatten(before, without=without), flatten(after, without=without)
    keys = sorted(old.keys() | new.keys())
    return [f"{key}={new.get(key)!r} (was {old.get(key)!r})" for key in keys if old.get(key) != new.get(key)]


def _leaves(tree: Mapping[str, Any], prefix: str, without: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in without:
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.", without)
        else:
            yield key, value
