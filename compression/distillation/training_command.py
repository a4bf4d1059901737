"""Runs `training/run.py` as a subprocess, since compression imports nothing of training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import TrainingError

_PROGRAM = Path(__file__).resolve().parents[2] / "training" / "run.py"
_PATIENCE_S = 60.0  # training may write a checkpoint before it ends its workers and Ray


def run_training(settings: Mapping[str, Any], directory: Path) -> Path:
    """Trains by `python training/run.py`, whose output is shown; resumes an interrupted training.

    SIGTERM, Ctrl-C or an error in this process ends the training first.

    Args:
        settings: Keys of a training run without `output`.
        directory: Takes the settings and the trained bundle.

    Returns:
        The bundle, `directory/agent`.

    Raises:
        TrainingError: Training failed; it printed why.
    """
    file, output = directory / "training.yaml", directory / "agent"
    directory.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**settings, "output": str(output)}, indent=1), encoding="utf-8")  # JSON is YAML
    status = _run([sys.executable, str(_PROGRAM), str(file)])
    if status:
        raise TrainingError(
            f"training ended with status {status}; its message stands above",
            remedy=f"mend what it names and give the same command again: it goes on from its last checkpoint ({file})",
        )
    return output


def _run(command: list[str]) -> int:
    """Runs a command that does not outlive this process; returns its exit status."""
    child = subprocess.Popen(command)
    try:
        return child.wait()
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Terminates a process that still runs, and kills it if it does not end in time."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
