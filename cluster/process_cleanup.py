"""How a command leaves nothing behind: which signals end it, what may not interrupt its end, and what it started through others.

Knows nothing of Ray: what Ray starts is found by the environment that it inherited.
"""

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
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # looked up here: little may be done between fork and exec


def at_signals(handler: _Handler) -> None:
    """Calls a handler when somebody asks this process to end. A hang-up that nohup switched off stays so."""
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals change nothing inside the block: a second Ctrl-C must not stop the tidying up that the first one began."""
    if threading.current_thread() is not threading.main_thread():  # only that one has handlers
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """For `preexec_fn`: the new process gets a SIGTERM when its parent is gone, also if that was killed."""
    if _PRCTL:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)


def see_off(mark: str, *, patience_s: float = 5) -> None:
    """Kills every process that has the mark in its environment, and waits until it is gone.

    Again and again, since one of them may have started another in the meantime. Not seen, but not excluded either: nothing
    in ray.shutdown() waits for the HAProxyManager, which starts HAProxies.
    """
    deadline = time.monotonic() + patience_s
    while (pids := marked(mark)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """Processes that were started with the mark in their environment; not those that have ended and wait for their parent."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found
