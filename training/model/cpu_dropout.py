"""Fast dropout for CPUs: the same distribution as torch's, with random bits drawn 64 at a time.

torch draws one Bernoulli variable after the other on a single thread, 2.5 ms for 1,000 tokens of 384; that is an eighth of
a training step. Four 16-bit thresholds out of every 64 random bits take a third of that (measured by hand on two cores, docs/benchmarks.md).
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

_LEVELS = 1 << 16  # a probability is rounded to the nearest 1/65536
_thread = threading.local()


def dropout(values: torch.Tensor, probability: float) -> torch.Tensor:
    """Sets each element to zero with a probability and scales the rest up; uses this thread's generator, or torch's default one."""
    dropped: torch.Tensor = _Dropout.apply(values, probability)  # type: ignore[no-untyped-call]
    return dropped


def seed_thread(seed: int) -> None:
    """Gives this thread its own generator: with a shared one results would depend on the order of threads."""
    _thread.generator = torch.Generator().manual_seed(seed)


def replace_dropout(model: nn.Module) -> None:
    """Replaces every `nn.Dropout` of a model by `CpuDropout`."""
    for parent in list(model.modules()):
        for name, child in list(
            parent._modules.items()
        ):  # named_children would leave out a second name of the same one
            if type(child) is nn.Dropout:
                setattr(parent, name, CpuDropout(child.p).train(child.training))


class CpuDropout(nn.Dropout):
    """`nn.Dropout` computed by `dropout`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002  # the name nn.Dropout gives it
        """Drops in training mode only."""
        return dropout(input, self.p) if self.training and self.p else input


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, probability: float) -> torch.Tensor:
        levels = round(probability * _LEVELS)
        if levels == _LEVELS:
            keep = torch.zeros_like(values)
        else:  # scaled by the rounded probability, so that the mean is exactly kept
            keep = (
                _keep_mask(values.numel(), levels)
                .view(values.shape)
                .to(values.dtype)
                .mul_(_LEVELS / (_LEVELS - levels))
            )
        context.save_for_backward(keep)
        return values * keep

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (keep,) = context.saved_tensors
        return gradient * keep, None


def _keep_mask(count: int, levels: int) -> torch.Tensor:
    generator = getattr(_thread, "generator", None)
    bits = (
        torch.empty(-(-count // 4), dtype=torch.int64)
        .random_(-(1 << 63), None, generator=generator)
        .view(torch.int16)[:count]
    )
    return bits >= levels - _LEVELS // 2
