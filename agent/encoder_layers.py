"""Finds the layers of transformers' encoders by the structure of their modules, without importing PyTorch."""

from __future__ import annotations

from typing import Any


def find_layers(model: Any) -> tuple[str, Any] | None:
    """The list of an encoder's layers, lowest first, and its dotted name in the base model; None if there is no such list.

    Args:
        model: A model of transformers whose layers are in one `ModuleList` (BERT, RoBERTa, ELECTRA, DistilBERT and similar).
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.base_model.named_modules():
        if type(module).__name__ == "ModuleList" and len(module) == depth:
            return name, module
    return None
