"""Keeps the zero weights of a pruned model at zero while it trains."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from training.model.layer_depth import is_head


def keep_zeros(model: nn.Module) -> None:
    """Gives every weight of the encoder's linear layers that is exactly zero a gradient of zero.

    Every optimizer here moves a weight by its gradient, its moments and its decay, all of which are zero then, at every ZeRO
    stage. Embeddings, norms and the head are trained whole: a fresh head has biases of zero that must not stay so.

    Args:
        model: A model of transformers with its weights, where it will be trained.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not is_head(model, name):
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad and bool((parameter == 0).any()):
                    parameter.register_hook(_mask_gradient((parameter != 0).to(parameter.dtype)))  # type: ignore[no-untyped-call]


def _mask_gradient(nonzero: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: gradient * nonzero
