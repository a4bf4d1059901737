"""Fast dropout for CPUs: the same distribution as torch's, with random bits drawn 64 at a time.

torch draws one Bernoulli variable after the other on a single thread, 2.5 ms for 1,000 tokens of 384; that is an eighth of
a training step. Four 16-bit thresholds out of every 64 random bits take a third of that (measured by hand on two cores, docs/benchmarks.md).
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

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


class ThreadRandomness(TorchFunctionMode):
    """Has what a model draws inside drawn from this thread's generator, where the model calls functions of torch instead of modules.

    That is dropout (by `dropout`), dropout of attention weights (by plain products, since torch's kernel has a generator of its own)
    and the numbers that say which layers are left out.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls ours instead of torch's."""
        ours = _DRAWING.get(function)
        return (ours or function)(*args, **(kwargs or {}))


def _functional_dropout(
    input: torch.Tensor,  # noqa: A002  # torch's name
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """As torch's; what is to be changed in place is not needed afterwards, and need not be."""
    return dropout(input, p) if training and p else input


def _attention(  # noqa: PLR0913, PLR0917  # torch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Attention weights times values: torch's kernel unless it would draw."""
    if not dropout_p:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, is_causal=is_causal, **options)
    scale, shared = options.get("scale"), options.get("enable_gqa", False)
    if shared:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = torch.matmul(query * (scale or query.shape[-1] ** -0.5), key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = functional.softmax(scores, dim=-1).to(value.dtype)
    return torch.matmul(dropout(weights, dropout_p), value)


def _rand(*size: Any, **options: Any) -> torch.Tensor:
    generator = getattr(_thread, "generator", None)
    return torch.rand(*size, **{"generator": generator, **options})


_DRAWING: dict[Any, Any] = {
    functional.dropout: _functional_dropout,
    functional.scaled_dot_product_attention: _attention,
    torch.rand: _rand,
}


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
