"""All-reduces gradients over workers at ZeRO stage 0; of the input embedding only the rows that a step touched.

DeepSpeed's own all-reduce copies every gradient into a bucket and back, even with one worker, and sends the whole embedding
although a step touches a thousand of its rows: half of all bytes for a small encoder. Every worker knows the touched rows from
the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BUCKET = 1 << 25  # elements sent together: 128 MiB, so that a large model never needs a second copy of itself


class GradientAllreduce:
    """Adds the gradients of all workers, in place.

    Args:
        parameters: All that are trained, in the same order on every worker.
        embedding: The input embedding's weight, if only rows of the step's tokens have a gradient: trained, not shared.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], embedding: torch.nn.Parameter | None) -> None:
        self._embedding = embedding
        self._dense = [parameter for parameter in parameters if parameter is not embedding]
        self._all = list(parameters)

    @property
    def by_rows(self) -> bool:
        """Whether `run` can use the touched rows."""
        return self._embedding is not None

    def run(self, touched_rows: torch.Tensor | None) -> None:
        """Sums the gradients of all workers.

        Args:
            touched_rows: int64 [rows], rows of the embedding that any worker's part of the step used; None sends all.
        """
        import torch
        import torch.distributed as dist

        rows_only = (
            self._embedding is not None and touched_rows is not None and 2 * len(touched_rows) < len(self._embedding)
        )
        for bucket in _buckets(self._dense if rows_only else self._all):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            first = 0
            for gradient in bucket:
                gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
                first += gradient.numel()
        if rows_only:
            assert self._embedding is not None
            gradient = _gradient(self._embedding)
            rows = gradient[touched_rows]
            dist.all_reduce(rows)
            gradient[touched_rows] = rows


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> list[list[torch.Tensor]]:
    buckets: list[list[torch.Tensor]] = []
    size = _BUCKET
    for gradient in map(_gradient, parameters):
        if size + gradient.numel() > _BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel()
    return buckets


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A parameter's gradient; zero on a worker whose part of the step was empty."""
    import torch

    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
