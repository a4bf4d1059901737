"""What ends a command, what may not interrupt its end, and what is found of the processes that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cluster.process_cleanup import find_marked, kill_marked
from tests.signals import as_from_a_terminal
from tests.waiting import until

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
_PYTHON = [sys.executable, "-c"]
# Waits for a signal, then tidies up for a second.
_TIDY = """
import signal, threading, time
from cluster.process_cleanup import at_signals, ignore_signals
stop = threading.Event()
at_signals(lambda *_: stop.set())
print("ready", flush=True)
stop.wait()
at_signals(signal.default_int_handler)
with ignore_signals():
    print("tidying", flush=True)
    time.sleep(1)
    print("tidy", flush=True)
"""
# Starts a process that starts a process, as Ray does, and ends.
_GRANDCHILD = "import subprocess; subprocess.Popen(['sleep', '300'], start_new_session=True)"
_CHILD = """
import subprocess, time
from cluster.process_cleanup import end_with_parent
child = subprocess.Popen(['sleep', '300'], start_new_session=True, preexec_fn=end_with_parent)
print(child.pid, flush=True)
time.sleep(300)
"""


def _start(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*_PYTHON, code], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True, bufsize=1,
        preexec_fn=as_from_a_terminal,  # noqa: PLW1509 - sets two handlers, takes no lock
    )  # fmt: skip


def _gone(pid: int) -> bool:
    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    return until(is_gone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_ends_a_command_and_no_further_one_interrupts_its_end(number: signal.Signals) -> None:
    with _start(_TIDY) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "tidying\n"
        for further in (number, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(further)
        assert process.stdout.readline() == "tidy\n"
    assert process.returncode == 0


def test_nohup_keeps_its_meaning() -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + _TIDY
    with _start(ignoring) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "tidying\ntidy\n"


def test_what_a_process_left_behind_is_found_by_its_environment_and_seen_off() -> None:
    mark = f"leaving-{uuid.uuid4()}"
    subprocess.run([*_PYTHON, _GRANDCHILD], env=os.environ | {"MARK": mark}, check=True)
    (pid,) = until(lambda: find_marked(mark))  # while a process takes on its program, its environment cannot be read
    kill_marked(mark)
    assert _gone(pid)
    assert find_marked(mark) == []


def test_a_process_that_has_just_been_started_is_seen_off_too() -> None:
    """Of fifty about one had no environment to be read yet."""
    for _ in range(50):
        mark = f"starting-{uuid.uuid4()}"
        with subprocess.Popen(["sleep", "20"], env={"MARK": mark}) as process:  # ends by itself, where the test fails
            kill_marked(mark)
            assert process.wait() == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_goes_when_its_parent_is_killed() -> None:
    with _start(_CHILD) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.kill()
    assert _gone(pid)
