"""Writes a model whose weights were gathered from workers; a matrix that several layers share stands in the file once, as transformers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def save_gathered(model: PreTrainedModel, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Writes config.json and model.safetensors.

    transformers leaves out a weight that shares its memory with the one it is tied to. Gathered weights are copies, which share none:
    the one that is tied is made the other again.

    Args:
        model: What the weights are of; says what is tied (the vocabulary's matrix of BERT's masked-language head is its embedding table).
        weights: All of them by name, in fp32.
        directory: Where to.
    """
    tied = {name: weights[source] for name, source in model.all_tied_weights_keys.items() if source in weights}
    kept = {name: tied.get(name, tensor) for name, tensor in weights.items()}
    model.save_pretrained(directory, state_dict=kept)
