"""Which keys of a training run a search may set, and setting them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys that all trials share: what they are compared by, and what changes nothing about the agent.
_COMMON = (
    "output", "overwrite", "resume", "epochs", "task", "data", "ingest", "early_stopping", "checkpoint", "tracking",
    "cluster", "num_workers", "num_workers_min", "max_failures", "resize_check_s", "batch.micro_tokens",
    "batch.halve_on_oom",
)  # fmt: skip


def check_key(key: str) -> None:
    """Refuses a key that all trials must share.

    Raises:
        ValueError: It is one.
    """
    for common in _COMMON:
        if key == common or key.startswith(f"{common}."):
            raise ValueError(f"{common} is the same for all trials; set it beside space")


def assign(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a tree of plain values with the given dotted keys set."""
    found = dict(tree)
    for key, value in settings.items():
        first, dot, rest = key.partition(".")
        inner = found.get(first)
        found[first] = assign(inner if isinstance(inner, Mapping) else {}, {rest: value}) if dot else value
    return found
