"""Asks for training, by the command that users have too: compression trains nothing itself and imports nothing that does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import TrainingError

_PROGRAM = Path(__file__).resolve().parents[2] / "training" / "run.py"
_PATIENCE_S = 60.0  # training ends its workers and its Ray, and may have to write a checkpoint before


def retrain(settings: Mapping[str, Any], directory: Path) -> Path:
    """Runs `python training/run.py` on settings of its own; shows what it shows. Goes on with what an interrupted call has left.

    Whatever ends this process in an orderly way (SIGTERM, Ctrl-C, an error) ends the training first.

    Args:
        settings: Keys of a training run but `output`.
        directory: Where the settings and the trained bundle go.

    Returns:
        The bundle, `directory/agent`.

    Raises:
        TrainingError: It failed; why stands on the screen.
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
    """The exit status of a command that does not outlive this process."""
    child = subprocess.Popen(command)
    try:
        return child.wait()
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Does nothing to one that has ended. One that got Ctrl-C from the terminal too is on its way already."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
