"""How far an annotation is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

_LINE_EVERY_S = 10.0


class AnnotationProgress:
    """Lines or rows that are done, out of all.

    Args:
        total: Of them all.
        done: By runs before this one.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done, self._before = total, done, done
        self._began = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> AnnotationProgress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._total, initial=self._done, desc="annotating", unit="rec", unit_scale=True, file=sys.stderr
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """Counts what is done now."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            rate = (self._done - self._before) / (self._last - self._began)
            left = (self._total - self._done) / rate
            print(f"annotating: {self._done / self._total:.0%}  {rate:,.0f} records/s  {left:.0f} s left", flush=True)
