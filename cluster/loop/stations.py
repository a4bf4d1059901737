"""Starts the stations of a round as the commands that users have, and says where they failed."""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from agent.errors import LoopError, one_line
from agent.files import write_file
from cluster.child_process import run_command

ROOT = Path(__file__).resolve().parents[2]
_TAIL = 4_000  # bytes of a log in which its error is looked for


def run_station(
    program: str,
    settings: Mapping[str, Any],
    directory: Path,
    *,
    refusal: Path | None = None,
    secret: Container[str] = (),
) -> bool:
    """Runs a command on settings that are kept beside its log, and shows where the log is.

    Args:
        program: Path of the command in the repository.
        settings: Its keys.
        directory: Takes PROGRAM.yaml and PROGRAM.log.
        refusal: File by which a failed command says that it refused rather than failed.
        secret: Keys that stand in the file only while the command runs.

    Returns:
        False for a refusal.

    Raises:
        LoopError: It failed otherwise; the same command again goes on there.
    """
    name = program.removesuffix("/run.py").replace("/", "-").removesuffix(".py")
    file, log = directory / f"{name}.yaml", directory / f"{name}.log"
    kept = {key: value for key, value in settings.items() if key not in secret}
    _write(file, settings)
    if refusal:
        refusal.unlink(missing_ok=True)
    print(f"  python {program} {file}, output in {log.name}", flush=True)
    try:
        status = run_command([sys.executable, str(ROOT / program), str(file)], log=log)
    finally:
        _write(file, kept)
    if status and not (refusal and refusal.exists()):
        raise LoopError(
            f"{program} ended with status {status}: {_error_in(log)}",
            remedy="mend it and give the same command again, which goes on there; abandon=true gives the round up",
        )
    return not status


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    write_file(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")  # JSON is YAML


def merged(recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings with changes. Where a change names another `kind`, nothing of the recorded one stays."""
    found = dict(recorded)
    for key, value in changes.items():
        before = found.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            same = value.get("kind", before.get("kind")) == before.get("kind")
            found[key] = merged(before, value) if same else value
        else:
            found[key] = value
    return found


def _error_in(log: Path) -> str:
    """What a command said last of its failure."""
    lines = log.read_bytes()[-_TAIL:].decode("utf-8", "replace").strip().splitlines()
    named = [line for line in lines if line.startswith("error: ")]
    return one_line((named or lines or ["it printed nothing"])[-1].removeprefix("error: "))
