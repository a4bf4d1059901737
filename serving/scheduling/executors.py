"""Where batches are computed: on the event loop itself, or in worker threads. The batcher treats both alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from agent.encoding import Float32
from serving.inference.passes import WindowWork

Forward = Callable[[Sequence[WindowWork]], Sequence[Float32]]
"""Windows of one batch to their logits, in order."""

Outputs = Sequence[Float32] | Exception
Done = Callable[[Outputs, float], None]
"""Told, on the event loop, what came of a batch and how many seconds it took."""


class Executor(Protocol):
    """Computes up to `num_workers` batches at once."""

    num_workers: int

    def start(self, windows: Sequence[WindowWork], done: Done) -> None:
        """Begins a batch; `done` is called once, possibly before this returns."""

    def close(self) -> None:
        """Lets running batches finish and takes no more."""


class LoopExecutor:
    """Computes on the event loop: for one core, where another thread would only add switches.

    Args:
        forward: Computes a batch. It holds the event loop, so it has to be short (docs/serving.md).
    """

    num_workers = 1

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def start(self, windows: Sequence[WindowWork], done: Done) -> None:
        """Computes the batch, then calls `done`."""
        done(*_computed(self._forward, windows))

    def close(self) -> None:
        """Nothing runs outside of the event loop."""


class ThreadExecutor:
    """Computes in threads: for GPUs, sessions of several threads, and graphs that take long.

    Args:
        forward: Computes a batch; called in several threads at once.
        num_workers: How many.
    """

    def __init__(self, forward: Forward, num_workers: int) -> None:
        self.num_workers = num_workers
        self._forward, self._pool = forward, ThreadPoolExecutor(num_workers, "batch")

    def start(self, windows: Sequence[WindowWork], done: Done) -> None:
        """Hands the batch to a thread, which calls `done` on the event loop."""
        loop = asyncio.get_running_loop()

        def work() -> None:
            outputs, seconds = _computed(self._forward, windows)
            with suppress(RuntimeError):  # a loop that has ended has no callers left
                loop.call_soon_threadsafe(done, outputs, seconds)

        self._pool.submit(work)

    def close(self) -> None:
        """Waits for running batches."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _computed(forward: Forward, windows: Sequence[WindowWork]) -> tuple[Outputs, float]:
    started = time.monotonic()
    outputs: Outputs
    try:
        outputs = forward(windows)
    except Exception as error:  # noqa: BLE001 - whatever the model raises belongs to those who wait for it
        outputs = error
    return outputs, time.monotonic() - started
