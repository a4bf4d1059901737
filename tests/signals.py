"""Signals as a command gets them that was typed into a terminal."""

from __future__ import annotations

import signal


def as_from_a_terminal() -> None:
    """For `preexec_fn`: undoes what nohup and background jobs of a shell switch off, which the tests themselves may run under."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
