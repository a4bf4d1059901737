"""Progress on stderr: a bar on a terminal, one plain line with the time elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with (done, in all)."""
    if sys.stderr.isatty():
        with _terminal_bar(label) as advance:
            yield advance
        return
    started = time.perf_counter()
    yield lambda done, total: None
    print(f"{label}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)


@contextmanager
def _terminal_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    from tqdm import tqdm

    with tqdm(desc=label, leave=True, file=sys.stderr) as shown:

        def advance(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield advance
