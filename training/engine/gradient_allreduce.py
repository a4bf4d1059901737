"""Sums gradients over workers at ZeRO stage 0, with as few bytes as exactness allows.

DeepSpeed's own exchange copies every gradient into a bucket and back, with one worker as with many, and sends the whole
embedding table though a step touches a thousand of its rows: half of all bytes for a small encoder. Here the rows that
the step touched, which every worker knows from the plan, are exchanged by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BUCKET = 1 << 25  # elements that travel together: 128 MiB, so that a large model never needs a second copy of itself


class GradientAllreduce:
    """Adds the gradients of all workers, in place.

    Args:
        parameters: All that are trained, in the same order on every worker.
        table: The input embedding, if its gradient is zero but for rows of the step's tokens: trained, used only there.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], table: torch.nn.Parameter | None) -> None:
        self._table = table
        self._dense = [parameter for parameter in parameters if parameter is not table]
        self._everything = list(parameters)

    @property
    def by_rows(self) -> bool:
        """Whether there is a table whose touched rows would do."""
        return self._table is not None

    def run(self, touched: torch.Tensor | None) -> None:
        """Exchanges.

        Args:
            touched: int64 [rows], those of the table which any worker's part of the step used; None sends all.
        """
        import torch
        import torch.distributed as dist

        rows_only = self._table is not None and touched is not None and 2 * len(touched) < len(self._table)
        for bucket in _buckets(self._dense if rows_only else self._everything):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            first = 0
            for gradient in bucket:
                gradient.copy_(flat[first : first + gradient.numel()].view_as(gradient))
                first += gradient.numel()
        if rows_only:
            assert self._table is not None
            gradient = _gradient(self._table)
            rows = gradient[touched]
            dist.all_reduce(rows)
            gradient[touched] = rows


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
    """A worker whose part of a step was empty has no gradients; they count as zero."""
    import torch

    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
