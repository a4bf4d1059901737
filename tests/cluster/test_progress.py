"""Progress is a bar on a terminal and plain lines elsewhere."""

import io
import re
import sys

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


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with shown(1_000, done=500) as progress:
        progress.advance(500)
    assert re.search(r"copying: 100%\|.*1\.00k/1\.00k", terminal.getvalue())
    assert capsys.readouterr().out == ""


def test_work_that_tells_its_total_gets_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with timed_bar("measuring") as show:
        show(3, 8)
        show(8, 8)
    assert re.search(r"measuring: 100%\|.*8/8", terminal.getvalue())


def test_work_that_tells_its_total_gets_one_line_elsewhere(capsys):
    with timed_bar("measuring") as show:
        show(8, 8)
    assert re.fullmatch(r"measuring: \d+\.\d s\n", capsys.readouterr().err)
