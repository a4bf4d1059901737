"""Our commands in the test's own process: where another process is not the point, its imports take most of a tiny command's time."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

_STARTERS = ("compression.distillation.training_command.run_command", "cluster.loop.stations.run_command")


def run_here(command: Sequence[str], *, log: Path | None = None) -> int:
    """Runs `python FILE ...` or `python -m MODULE ...` as `cluster.child_process.run_command` does, without a process of its own."""
    from tests.training.runs import in_this_process

    _, *arguments = command
    runner = runpy.run_module if arguments[0] == "-m" else runpy.run_path
    program, *rest = arguments[arguments[0] == "-m" :]
    with ExitStack() as stack:
        os.umask(mask := os.umask(0))
        stack.callback(os.umask, mask)  # the loop sets its own
        if log:
            stream = stack.enter_context(log.open("a", encoding="utf-8"))
            stack.enter_context(redirect_stdout(stream))
            stack.enter_context(redirect_stderr(stream))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "argv", [program, *rest])
        patch.setattr(sys, "path", [str(Path(program).parent), *sys.path])  # the commands replace the first
        stack.enter_context(in_this_process())
        try:
            runner(program, run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        except Exception:  # noqa: BLE001  # as the interpreter would
            traceback.print_exc()
            return 1
    return 0


@contextmanager
def commands_run_here() -> Iterator[None]:
    """What compression and the loop start as commands runs in this process, on the shared Ray; trainings have one worker."""
    from tests.local_ray import share_ray

    share_ray()
    with pytest.MonkeyPatch.context() as patch:
        for starter in _STARTERS:
            patch.setattr(starter, run_here)
        yield


@pytest.fixture
def commands_here() -> Iterator[None]:
    pytest.importorskip("deepspeed")
    with commands_run_here():
        yield
