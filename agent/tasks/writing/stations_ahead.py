"""Refuses agents that write at stations that have no engine for them yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import BundleError
from agent.tasks import KINDS, BaseTask


def refuse_writing(task: BaseTask[Any], bundle: Path, station: str) -> None:
    """Refuses an agent that writes; does nothing with others.

    Args:
        task: The agent's.
        bundle: Where it lies.
        station: What it would have to do with it, in a verb.

    Raises:
        BundleError: It writes.
    """
    if task.writes:
        raise BundleError(
            f"bundle {bundle} is an agent of {task.kind}, which writes texts, and nothing here can {station} such agents yet",
            allowed=f"agents of {', '.join(kind for kind, known in KINDS.items() if not known.writes)}",
            remedy=f"let transformers write with it: {task.architecture}.from_pretrained({str(bundle)!r})",
        )
