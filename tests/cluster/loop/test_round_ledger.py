"""The ledger of the loop survives a kill in the middle of a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.errors import LoopError
from cluster.loop.round_ledger import append, read_ledger, table


def entry(number: int, **changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "round": number, "time": "2026-11-29T12:00:00+00:00", "decision": "nothing to learn", "why": "none came",
        "feedback": {"corrections": 1, "rewards": 2}, "gates": [], "seconds": {"collect": 0.4},
    }  # fmt: skip
    return base | changes


def test_entries_are_read_as_they_were_added_and_half_a_line_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    assert read_ledger(file) == []
    append(file, entry(1))
    with file.open("ab") as stream:
        stream.write(b'{"round": 2, "ti')
    assert read_ledger(file) == [entry(1)]
    append(file, entry(2))
    assert read_ledger(file) == [entry(1), entry(2)]
    file.write_text("{nonsense}\n")
    with pytest.raises(LoopError, match=r"ledger\.jsonl is damaged"):
        read_ledger(file)


def test_people_see_what_was_decided_and_how_to_repeat_it(tmp_path: Path) -> None:
    assert table([]) == "the ledger is empty: no round has ended yet"
    gates = [{"gate": "test", "numbers": {"live": 0.75, "candidate": 0.5}}]
    feedback = {"corrections": 90, "rewards": 0, "used": 80}
    refused = entry(
        2,
        decision="refused",
        gates=gates,
        feedback=feedback,
        repeat=["python training/run.py X"],
        seconds={"a": 1.2, "b": 3},
    )
    shown = table([entry(1), refused]).splitlines()
    assert shown[2] == "| 1 | 2026-11-29 12:00:00 | nothing to learn | none came | 1 | 2 | - | - | - | 0 |"
    assert shown[3] == "| 2 | 2026-11-29 12:00:00 | refused | none came | 90 | 0 | 80 | 0.7500 | 0.5000 | 4 |"
    assert shown[-1] == "python training/run.py X"
