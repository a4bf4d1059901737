"""Parts of a batch computed side by side on a CPU, each by threads of its own. Knows modules and gradients, no steps.

Threads that share every product meet hundreds of times a step, and whenever one of them is late the others wait; what is not a
product (casts, sums, the way from one operation to the next) hardly gains from a second thread. Threads with a part of the rows
each meet twice a step. Two lanes of one thread did 1.17 times the steps of one lane of two (docs/training.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from training.engine.activation_hooks import SILENT, ActivationRecorder, Said
from training.model.cpu_dropout import seed_thread

Inputs = Mapping[str, torch.Tensor]
_LEAST_TOKENS = 512  # of a lane: products of fewer rows are slow


def count_lanes(threads: int, tokens: int) -> int:
    """How many lanes suit a number of threads and the tokens of a step: a divisor of the threads."""
    most = max(1, min(threads, tokens // _LEAST_TOKENS))
    return next(count for count in range(most, 0, -1) if threads % count == 0)


class ThreadParallel:
    """Runs a model on several batches at once, and its backward pass.

    Gradients are those of one pass after the other, summed in the order of the batches: the same whichever lane is done first.

    Args:
        model: On the CPU; its only random numbers are those of `cpu_dropout`.
        table: The input embedding if it is looked up and nothing else; its gradient is then kept by rows.
        count: ThreadParallel; this thread's threads are divided among them. 1 computes in this thread.
        context: What every pass runs in, such as autocast.
        taps: What is noted of every pass beside its logits.
    """

    def __init__(
        self,
        model: nn.Module,
        table: nn.Embedding | None,
        *,
        count: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        taps: ActivationRecorder = SILENT,
    ) -> None:
        self._model, self._context, self._taps = model, context, taps
        self._table = TableGradient(table) if table is not None else None
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._pools = _start(count) if count > 1 else []

    @property
    def count(self) -> int:
        """How many batches are computed at once."""
        return max(1, len(self._pools))

    def seed(self, seed: int) -> None:
        """Seeds the dropout of every lane."""
        torch.manual_seed(seed)
        self._each(lambda lane: seed_thread(seed + lane), range(len(self._pools)))

    def forward(self, batches: Sequence[Inputs]) -> list[Said]:
        """What each batch gives, at most one per lane; `backward` of anything made of it fills `.grad` of the parameters."""
        assert len(batches) <= self.count
        said: Said = _Passes.apply(self, batches, *self._trained)  # type: ignore[no-untyped-call]
        each = len(said) // max(1, len(batches))
        return [said[first : first + each] for first in range(0, len(said), each)]

    def forget(self, touched: torch.Tensor | None) -> None:
        """To be called after each step, when gradients were used. `touched`: int64, rows of the table that may hold a gradient; None if
        they are those of this process.
        """
        if self._table:
            self._table.clear(touched)

    def _passes(self, batches: Sequence[Inputs]) -> list[Said]:
        def run(batch: Inputs) -> Said:
            with torch.enable_grad(), self._context():
                return self._taps.listen(lambda: self._model(**batch).logits)

        return self._each(run, batches)

    def _gradients(self, said: Sequence[Said], upstream: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        def run(pair: tuple[Said, Sequence[torch.Tensor]]) -> tuple[torch.Tensor | None, ...]:
            learned = [(own, above) for own, above in zip(*pair, strict=True) if own.requires_grad]
            outputs, gradients = zip(*learned, strict=True)
            return torch.autograd.grad(outputs, self._trained, gradients, allow_unused=True)

        each = len(upstream) // len(said)
        parts = [upstream[first : first + each] for first in range(0, len(upstream), each)]
        found = zip(*self._each(run, list(zip(said, parts, strict=True))), strict=True)
        return [self._sum(gradients) for gradients in found]

    def _sum(self, parts: Iterable[torch.Tensor | None]) -> torch.Tensor | None:
        given = [part for part in parts if part is not None]
        if any(part.is_sparse for part in given):
            assert self._table
            for part in given:
                self._table.add(part)
            return None
        return functools.reduce(torch.Tensor.add_, given) if given else None

    def _each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if not self._pools:
            return list(map(work, items))
        coming = [pool.submit(work, item) for pool, item in zip(self._pools, items, strict=False)]
        return [future.result() for future in coming]


class TableGradient:
    """The gradient of an embedding, of which a step touches a few rows: only those are cleared and written.

    A gradient as large as the table, allocated and cleared anew, took 20 ms of a step of 300 (docs/training.md).
    """

    def __init__(self, table: nn.Embedding) -> None:
        table.sparse = True
        self._weight = table.weight
        self._dense = torch.zeros_like(table.weight)
        self._rows: list[torch.Tensor] = []

    def add(self, part: torch.Tensor) -> None:
        """Adds a sparse gradient to `.grad`."""
        rows, values = part._indices()[0], part._values()
        self._dense.index_add_(0, rows, values)
        self._rows.append(rows)
        self._weight.grad = self._dense

    def clear(self, touched: torch.Tensor | None) -> None:
        """Clears given rows, or those that were added to."""
        if touched is not None:
            self._dense.index_fill_(0, touched, 0)
        for rows in self._rows if touched is None else ():
            self._dense.index_fill_(0, rows, 0)
        self._rows.clear()


def _start(count: int) -> list[ThreadPoolExecutor]:
    """A thread for each lane, which computes with its part of this thread's threads."""
    threads = torch.get_num_threads()
    pools = [ThreadPoolExecutor(1, thread_name_prefix=f"lane-{lane}") for lane in range(count)]
    for pool in pools:
        pool.submit(_take_threads, threads // count).result()
    torch.set_num_threads(threads)  # of this thread, and of those that start later
    return pools


def _take_threads(count: int) -> None:
    """PyTorch keeps the number per thread, but takes it up from a global one at the first call that needs it: this must be that call."""
    torch.set_num_threads(count)
    assert torch.get_num_threads() == count


class _Passes(torch.autograd.Function):
    """One node for all lanes: the engine sees a single graph."""

    @staticmethod
    def forward(
        context: Any, lanes: ThreadParallel, batches: Sequence[Inputs], *_: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        context.lanes, context.said = lanes, lanes._passes(batches)
        return tuple(output.detach() for said in context.said for output in said)

    @staticmethod
    def backward(context: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        said, context.said = context.said, None  # each pass frees what it has kept
        return (None, None, *context.lanes._gradients(said, upstream))
