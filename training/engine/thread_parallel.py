"""Computes several parts of a batch in parallel on a CPU, each part by its own group of threads.

Threads that share every matrix product synchronise hundreds of times a step, and all wait for the slowest; what is not a product
(casts, sums, dispatch of operations) hardly gains from a second thread. Groups that each take a part of the rows synchronise
twice a step. Two groups of one thread did 1.17 times the steps of one group of two (docs/benchmarks.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from agent.generation.ctranslate2_conversion import DECODERS, ENCODER_DECODERS
from training.engine.activation_hooks import NO_ACTIVATIONS, ActivationRecorder, ModelOutputs
from training.model.cpu_dropout import seed_thread
from training.model.models import logits_of

Inputs = Mapping[str, torch.Tensor]
WRITING = frozenset((*ENCODER_DECODERS, *DECODERS))
"""Families that write whose passes are alike side by side and one after the other, with attention of torch's: tests/training/engine/test_thread_parallel.py."""

_MIN_TOKENS = 512  # of a group: products of fewer rows are slow


def count_thread_groups(threads: int, tokens: int) -> int:
    """The number of thread groups for a number of threads and the tokens of a step; it divides the threads."""
    most = max(1, min(threads, tokens // _MIN_TOKENS))
    return next(count for count in range(most, 0, -1) if threads % count == 0)


class ThreadParallel:
    """Runs forward and backward passes on several batches at once.

    Gradients are those of one pass after the other, summed in the order of the batches whichever group finishes first.

    Args:
        model: On the CPU; its random numbers are those of `cpu_dropout`, of modules or inside `ThreadRandomness`.
        embedding: The input embedding, if it is used for nothing else; its gradient is then kept by rows.
        num_groups: The calling thread's threads are divided among them. 1 computes in the calling thread.
        context: Entered around every pass, such as autocast.
        recorder: Activations returned with the logits.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: nn.Embedding | None,
        *,
        num_groups: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        recorder: ActivationRecorder = NO_ACTIVATIONS,
    ) -> None:
        self._model, self._context, self._recorder = model, context, recorder
        self._embedding = EmbeddingGradient(embedding) if embedding is not None else None
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._pools = _start_pools(num_groups) if num_groups > 1 else []

    @property
    def num_groups(self) -> int:
        """How many batches are computed at once."""
        return max(1, len(self._pools))

    def seed(self, seed: int) -> None:
        """Seeds the dropout of every thread group."""
        torch.manual_seed(seed)
        self._map(lambda group: seed_thread(seed + group), range(len(self._pools)))

    def forward(self, batches: Sequence[Inputs]) -> list[ModelOutputs]:
        """The outputs of at most one batch per group; `backward` of anything made of them fills `.grad` of the parameters."""
        assert len(batches) <= self.num_groups
        outputs: ModelOutputs = _ParallelPasses.apply(self, batches, *self._trainable)  # type: ignore[no-untyped-call]
        size = len(outputs) // max(1, len(batches))
        return [outputs[first : first + size] for first in range(0, len(outputs), size)]

    def clear_gradients(self, touched_rows: torch.Tensor | None) -> None:
        """Clears the embedding's gradient after a step.

        Args:
            touched_rows: int64, rows that may hold a gradient; None if they are those of this process.
        """
        if self._embedding:
            self._embedding.clear(touched_rows)

    def _forward_passes(self, batches: Sequence[Inputs]) -> list[ModelOutputs]:
        def run(batch: Inputs) -> ModelOutputs:
            with torch.enable_grad(), self._context():
                return self._recorder.record(lambda: logits_of(self._model(**batch), batch))

        return self._map(run, batches)

    def _backward_passes(
        self, outputs: Sequence[ModelOutputs], upstream: Sequence[torch.Tensor]
    ) -> list[torch.Tensor | None]:
        def run(pair: tuple[ModelOutputs, Sequence[torch.Tensor]]) -> tuple[torch.Tensor | None, ...]:
            differentiable = [
                (output, gradient) for output, gradient in zip(*pair, strict=True) if output.requires_grad
            ]
            own, gradients = zip(*differentiable, strict=True)
            return torch.autograd.grad(own, self._trainable, gradients, allow_unused=True)

        size = len(upstream) // len(outputs)
        parts = [upstream[first : first + size] for first in range(0, len(upstream), size)]
        by_parameter = zip(*self._map(run, list(zip(outputs, parts, strict=True))), strict=True)
        return [self._sum(gradients) for gradients in by_parameter]

    def _sum(self, gradients: Iterable[torch.Tensor | None]) -> torch.Tensor | None:
        present = [gradient for gradient in gradients if gradient is not None]
        if any(gradient.is_sparse for gradient in present):
            assert self._embedding
            for gradient in present:
                self._embedding.add(gradient)
            return None
        return functools.reduce(torch.Tensor.add_, present) if present else None

    def _map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        if not self._pools:
            return list(map(function, items))
        futures = [pool.submit(function, item) for pool, item in zip(self._pools, items, strict=False)]
        return [future.result() for future in futures]


class EmbeddingGradient:
    """The gradient of an embedding of which a step touches few rows: only those are written and cleared.

    A gradient as large as the embedding, allocated and cleared anew, took 20 ms of a step of 300 (docs/benchmarks.md).
    """

    def __init__(self, embedding: nn.Embedding) -> None:
        embedding.sparse = True
        self._weight = embedding.weight
        self._dense = torch.zeros_like(embedding.weight)
        self._rows: list[torch.Tensor] = []

    def add(self, gradient: torch.Tensor) -> None:
        """Adds a sparse gradient to `.grad`."""
        rows, values = gradient._indices()[0], gradient._values()
        self._dense.index_add_(0, rows, values)
        self._rows.append(rows)
        self._weight.grad = self._dense

    def clear(self, touched_rows: torch.Tensor | None) -> None:
        """Clears the given rows, or those that were added to."""
        for rows in self._rows if touched_rows is None else [touched_rows]:
            self._dense.index_fill_(0, rows, 0)
        self._rows.clear()


def _start_pools(num_groups: int) -> list[ThreadPoolExecutor]:
    """A thread for each group, which computes with its part of the calling thread's threads."""
    threads = torch.get_num_threads()
    pools = [ThreadPoolExecutor(1, thread_name_prefix=f"thread-group-{group}") for group in range(num_groups)]
    for pool in pools:
        pool.submit(_set_num_threads, threads // num_groups).result()
    torch.set_num_threads(threads)  # of this thread, and of those that start later
    return pools


def _set_num_threads(count: int) -> None:
    """PyTorch keeps the number per thread, but reads it from a global one at a thread's first call, which must be this one."""
    torch.set_num_threads(count)
    assert torch.get_num_threads() == count


class _ParallelPasses(torch.autograd.Function):
    """One autograd node for all passes: DeepSpeed sees a single graph."""

    @staticmethod
    def forward(
        context: Any, threads: ThreadParallel, batches: Sequence[Inputs], *_: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        context.threads, context.outputs = threads, threads._forward_passes(batches)
        return tuple(output.detach() for outputs in context.outputs for output in outputs)

    @staticmethod
    def backward(context: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        outputs, context.outputs = context.outputs, None  # each pass frees what it has kept
        return (None, None, *context.threads._backward_passes(outputs, upstream))
