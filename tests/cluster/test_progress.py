"""Progress is a bar on a terminal and plain lines elsewhere."""

import os
import pty
import re
import sys
import time

import pytest

from cluster.progress import Progress, timed_bar


def shown(total, done=0):
    return Progress("copying", total, done=done, unit="B", rate=lambda per_s: f"{per_s:,.0f} B/s")


def test_a_log_gets_a_plain_line_with_the_rate_of_this_run_and_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 9.0, 20.0, 20.0])
    monkeypatch.setattr("cluster.progress.time.monotonic", lambda: next(clock))
    with shown(1_000, done=500) as progress:
        progress.advance(100)
        progress.advance(100)
    captured = capsys.readouterr()
    assert captured.out == "copying: 70%  10 B/s  30 s left\n"
    assert captured.err == ""


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as stderr; yields a function that returns what was written to it."""
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", stream)
    yield lambda: os.read(ours, 1 << 16).decode()
    stream.close()
    os.close(ours)


def test_a_terminal_gets_a_bar(terminal, capsys):
    with shown(1_000, done=500) as progress:
        progress.advance(500)
    assert re.search(r"copying: 100%\|.*1\.00k/1\.00k", terminal())
    assert capsys.readouterr().out == ""


def test_work_that_tells_its_total_gets_a_bar_on_a_terminal(terminal):
    with timed_bar("measuring") as show:
        show(3, 8)
        show(8, 8)
    assert re.search(r"measuring: 100%\|.*8/8", terminal())


def test_work_that_tells_its_total_gets_one_line_elsewhere(capsys):
    with timed_bar("measuring") as show:
        show(8, 8)
        time.sleep(0.01)
    assert re.fullmatch(r"measuring: \d+\.\d s\n", capsys.readouterr().err)
