"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

_LINE_EVERY_S = 10.0


class Progress:
    """Shows how much of a known amount of work is done, how fast it goes and how long it will still take.

    Args:
        label: What is being done.
        total: All of the work, in `unit`.
        unit: What the bar counts.
        rate: Words for a rate per second in a plain line.
        done: What was done before, by an earlier run.
    """

    def __init__(self, label: str, total: int, *, unit: str, rate: Callable[[float], str], done: int = 0) -> None:
        self._label, self._total, self._unit, self._rate = label, total, unit, rate
        self._done = self._before = done
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Self:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            total=self._total, initial=self._done, desc=self._label, unit=self._unit, unit_scale=True, file=sys.stderr,
            disable=None,
        )  # fmt: skip  # None: disabled where stderr is no terminal
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Adds work that is done now."""
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            rate = (self._done - self._before) / (self._last - self._began)
            left = (self._total - self._done) / rate
            print(f"{self._label}: {self._done / self._total:.0%}  {self._rate(rate)}  {left:.0f} s left", flush=True)


@contextmanager
def timed_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with (done, total); where stderr is no terminal, prints one line with the seconds at the end."""
    from tqdm import tqdm

    started = time.perf_counter()
    with tqdm(desc=label, file=sys.stderr, disable=None) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield show
    if shown.disable:
        print(f"{label}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
