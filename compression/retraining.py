"""Asks for training, by the command that users have too: compression trains nothing itself and imports nothing that does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import TrainingError

_PROGRAM = Path(__file__).resolve().parents[1] / "training" / "run.py"


def retrain(settings: Mapping[str, Any], directory: Path) -> Path:
    """Runs `python training/run.py` on settings of its own; shows what it shows. Goes on with what an interrupted call has left.

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
    done = subprocess.run([sys.executable, str(_PROGRAM), str(file)], check=False)
    if done.returncode:
        raise TrainingError(
            f"training ended with status {done.returncode}; its message stands above",
            remedy=f"mend what it names and give the same command again: it goes on from its last checkpoint ({file})",
        )
    return output
