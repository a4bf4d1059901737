"""Progress of a run as people see it: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

_LINE_EVERY_S = 10.0


class Progress:
    """Shows steps done. Ray carries the bar of a remote worker to the driver's terminal.

    Args:
        total: Steps in all.
        show: False on all workers but the first.
        interactive: Whether the driver writes to a terminal.
    """

    def __init__(self, total: int, *, show: bool, interactive: bool) -> None:
        self._total, self._show, self._done = total, show, 0
        self._bar: Any = None
        self._last = self._begun = time.monotonic()
        if show and interactive:
            from ray.experimental import tqdm_ray

            self._bar = tqdm_ray.tqdm(total=total, desc="training")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, loss: float, tokens_per_second: float) -> None:
        """Counts one step."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_description(f"training (loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s)")
            self._bar.update(1)
        elif self._show and time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            left = (self._last - self._begun) / self._done * (self._total - self._done)
            self.note(
                f"step {self._done}/{self._total}  loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s  {left:.0f} s left"
            )

    def note(self, line: str) -> None:
        """Prints a line of its own."""
        if self._show:
            print(line, flush=True)
