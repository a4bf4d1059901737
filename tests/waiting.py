"""Waiting for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 90.0  # for what takes a moment: a machine that others use may stand still for seconds


def until(condition: Callable[[], T], seconds: float = PATIENCE_S, *, pause_s: float = 0.05) -> T:
    """What a condition gives once it is true; what it gave last if the time is up, so that callers assert it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(pause_s)
    return found
