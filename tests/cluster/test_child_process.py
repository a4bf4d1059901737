"""A command ends with the process that runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.child_process import run_command

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import sys
from cluster.child_process import run_command
from agent.config.cli import _sigterm_is_an_exit
with _sigterm_is_an_exit():
    run_command([sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(300)"])
"""


def test_its_status_and_its_output_in_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for status in (0, 3):
        program = f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({status})"
        assert run_command([sys.executable, "-u", "-c", program], log=log) == status
    assert log.read_text() == "out\nerr\n" * 2


@pytest.mark.faults
@pytest.mark.system
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_it_does_not_outlive_its_parent_however_that_ends(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.send_signal(number)
        parent.wait(30)
        deadline = time.monotonic() + 30
        while _lives(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _lives(child)


def _lives(process: Path) -> bool:
    try:
        return "(zombie)" not in (process / "status").read_text()
    except OSError:
        return False
