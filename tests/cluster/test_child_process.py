"""A command ends with the process that runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.child_process import run_command
from tests.signals import as_from_a_terminal
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import sys
from cluster.child_process import run_command
from agent.config import cli
from agent.config.base import Config
child = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
sys.exit(cli.run(Config, lambda _: run_command([sys.executable, "-c", child]), usage="usage", arguments=[]))
"""


def test_its_status_and_its_output_in_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for status in (0, 3):
        program = f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({status})"
        assert run_command([sys.executable, "-u", "-c", program], log=log) == status
    assert log.read_text() == "out\nerr\n" * 2


@pytest.mark.faults
@pytest.mark.system
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_it_does_not_outlive_its_parent_however_that_ends(number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
        preexec_fn=as_from_a_terminal,  # noqa: PLW1509 - sets two handlers, takes no lock
    ) as parent:  # fmt: skip
        assert parent.stdout
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.send_signal(number)
        assert parent.wait(30) == status
        assert until(lambda: not _lives(child))


def _lives(process: Path) -> bool:
    try:
        return "(zombie)" not in (process / "status").read_text()
    except OSError:
        return False
