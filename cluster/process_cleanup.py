"""Signals that end a command, and killing every process that it started, found by a mark in their environment."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_Handler = Callable[[int, FrameType | None], object]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a terminal that was closed
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LOOKS = 2  # that find nothing before nothing is said to be left
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: little may be done between fork and exec


def at_signals(handler: _Handler) -> None:
    """Sets a handler for the signals that ask this process to end, except SIGHUP where nohup ignores it."""
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignores signals inside the block: a second Ctrl-C must not interrupt the clean-up that the first one started."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread has handlers
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """For `preexec_fn`: the new process gets a SIGTERM when its parent ends, also if that was killed."""
    if _PRCTL:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def kill_marked(mark: str, *, timeout_s: float = 5) -> None:
    """Kills every process that has the mark in its environment, and waits until it is gone.

    Repeated, since one of them may start another meanwhile: nothing in ray.shutdown() waits for the HAProxyManager, which starts
    HAProxies (not observed, but possible). And looked for twice: for a moment the kernel shows no environment of a process that is
    being started, sometimes still when `subprocess.Popen` has returned.
    """
    deadline = time.monotonic() + timeout_s
    looks = 0
    while looks < _LOOKS and time.monotonic() < deadline:
        pids = find_marked(mark)
        looks = 0 if pids else looks + 1
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if looks < _LOOKS:
            time.sleep(0.05)


def find_marked(mark: str) -> list[int]:
    """Process ids of those started with the mark in their environment; ended ones that wait for their parent are left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found
