"""Asks for training, by the command that users have too: compression trains nothing itself and imports nothing that does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from agent.errors import TrainingError

_PROGRAM = Path(__file__).resolve().parents[1] / "training" / "run.py"
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
    with _sigterm_is_an_exit():
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


@contextmanager
def _sigterm_is_an_exit() -> Iterator[None]:
    """By default SIGTERM ends a process on the spot, and nothing is left that could pass it on."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)  # as shells tell it
