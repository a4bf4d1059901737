"""Runs a command that does not outlive this process."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cluster.process_cleanup import end_with_parent

_PATIENCE_S = 60.0  # training may write a checkpoint before it ends its workers and Ray


def run_command(command: Sequence[str], *, log: Path | None = None) -> int:
    """Runs a command to its end. SIGTERM, Ctrl-C or an error in this process ends the command first.

    Args:
        command: Program and arguments.
        log: File to which its output is added; default: where this process prints.

    Returns:
        Its exit status.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(log.open("ab")) if log else None
        child = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT if stream else None,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - it calls prctl and nothing else
        )
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
