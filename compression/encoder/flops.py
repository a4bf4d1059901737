"""How much a network computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compression.encoder.torch_model import to_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 64  # attention's share grows with the length, so one is fixed


def flops_per_token(model: PreTrainedModel, max_tokens: int) -> int:
    """Floating-point operations (a multiplication and an addition are two) of a sentence of 64 tokens, by token.

    Counts products of matrices (`torch.utils.flop_counter`), not norms and activations. Of int8 graphs it is the same number.
    """
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from agent.encoding import Batch

    tokens = min(TOKENS, max_tokens)
    ids = np.ones((1, tokens), np.int64)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        model(**to_tensors(model, Batch(ids, np.ones_like(ids), np.zeros_like(ids))))
    return int(counter.get_total_flops() // tokens)
