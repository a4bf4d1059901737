"""The depth of each parameter of an encoder, read from its name: embeddings, a layer, or the head."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# layer.3 (BERT, DeBERTa, DistilBERT), layers.3 (ModernBERT), h.3 (GPT-2's kin), block.3 (Funnel, T5)
_LAYER = re.compile(r"(?:layers?|blocks?|\bh)\.(\d+)\.")
WRAPPED = "base_model.model."  # peft's prefix of every name


def depths(model: torch.nn.Module) -> dict[str, int]:
    """The depth of every parameter by its name: 0 for embeddings, 1 for the lowest layer, one more than the layers for the head.

    The head is all that stands outside of the base model, and the base model's pooler, which only the head reads. What is
    neither in a layer nor an embedding (a final norm) counts to the top layer.

    Args:
        model: A model of transformers, or that model under peft.
    """
    names = [name for name, _ in model.named_parameters()]
    numbers = {name: int(found[1]) for name in names if (found := _LAYER.search(name)) and not is_head(model, name)}
    top = 1 + max(numbers.values(), default=-1)
    depths, below = {}, 0  # parameters come in the order in which the model declares its parts
    for name in names:
        if is_head(model, name):
            depths[name] = top + 1
        elif name in numbers:
            depths[name], below = numbers[name] + 1, top
        else:
            depths[name] = 0 if "embed" in name else below
    return depths


def is_head(model: torch.nn.Module, name: str) -> bool:
    """Whether a parameter or module is of the head."""
    base, inner = str(model.base_model_prefix), name.removeprefix(WRAPPED)
    return not inner.startswith(f"{base}.") or inner.startswith(f"{base}.pooler.")
