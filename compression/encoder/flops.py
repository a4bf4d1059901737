"""Counts the floating-point operations of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compression.encoder.torch_model import to_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 64  # a fixed length, since the share of attention grows with it


def flops_per_token(model: PreTrainedModel, max_tokens: int) -> int:
    """FLOPs per token (a multiply-add is two) in a sentence of 64 tokens.

    Counts matrix products (`torch.utils.flop_counter`), not norms and activations; int8 graphs have the same number.
    """
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from agent.batching import Batch

    tokens = min(TOKENS, max_tokens)
    ids = np.ones((1, tokens), np.int64)
    counter = FlopCounterMode(display=False)
    with _frozen(model), torch.inference_mode(), counter:
        model(**to_tensors(model, Batch(ids, np.ones_like(ids), np.zeros_like(ids))))
    return int(counter.get_total_flops() // tokens)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No parameter asks for a gradient: the counter looks for one of each that is given to a module, as DeBERTa's table of distances is."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
