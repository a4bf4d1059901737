"""Runs `training/run.py` as a subprocess, since compression imports nothing of training."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import TrainingError
from cluster.child_process import run_command

_PROGRAM = Path(__file__).resolve().parents[2] / "training" / "run.py"


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
    status = run_command([sys.executable, str(_PROGRAM), str(file)])
    if status:
        raise TrainingError(
            f"training ended with status {status}; its message stands above",
            remedy=f"mend what it names and give the same command again: it goes on from its last checkpoint ({file})",
        )
    return output
