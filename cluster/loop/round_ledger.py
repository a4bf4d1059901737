"""The ledger of the loop: one object a round, only ever added to, and its table for people."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent import markdown
from agent.errors import LoopError

Entry = Mapping[str, Any]


def read_ledger(file: Path) -> list[Entry]:
    """All entries. A last line without an end is one that a killed process did not finish, and is left out.

    Raises:
        LoopError: A line is damaged.
    """
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise LoopError(
            f"the ledger {file} is damaged ({error})",
            allowed="one JSON object a line",
            remedy="restore it from a copy, or begin anew with another directory",
        ) from None


def append(file: Path, entry: Entry) -> None:
    """Adds an entry; it is on disk when this returns. What a killed process left of a line goes first."""
    line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
    with file.open("a+b") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def table(entries: Sequence[Entry]) -> str:
    """The ledger for people, and how the last round that trained is repeated."""
    if not entries:
        return "the ledger is empty: no round has ended yet"
    head = ["round", "time (UTC)", "decision", "why", "corrections", "rewards", "used"]
    rows = [[*head, "test, live", "test, candidate", "s"]]
    rows += [_cells(entry) for entry in entries]
    lines = markdown.table(rows, num_text_columns=4)
    if repeat := next((entry["repeat"] for entry in reversed(entries) if entry.get("repeat")), None):
        lines += ["", "the last round that trained is repeated, into directories of your choice, by:", *repeat]
    return "\n".join(lines)


def _cells(entry: Entry) -> list[str]:
    feedback = entry["feedback"]
    numbers: Mapping[str, float] = next((gate["numbers"] for gate in entry["gates"] if gate["gate"] == "test"), {})
    scores = [numbers.get(name) for name in ("live", "candidate")]
    return [
        str(entry["round"]),
        entry["time"][:19].replace("T", " "),
        entry["decision"],
        markdown.clip(entry["why"], 120),
        str(feedback["corrections"]),
        str(feedback["rewards"]),
        str(feedback.get("used", "-")),
        *("-" if score is None else f"{score:.4f}" for score in scores),
        f"{sum(entry['seconds'].values()):.0f}",
    ]
