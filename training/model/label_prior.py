"""Starts a new head whose labels are decided one by one at the share of texts that has each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def start_at_shares(model: torch.nn.Module, counts: Sequence[int], num_windows: int) -> None:
    """Sets the bias of a new output layer to the log-odds of its labels (the prior of arXiv 1708.02002, section 3.3).

    A head with zeros for biases gives every label one half. Where labels are many and rare, the first steps then pull all of them down at once,
    for every text alike, and at high learning rates the encoder goes along: at the end it gives every text the same output. A bias that is not
    zero was learned, and stays.

    Args:
        model: Of transformers, with an output for each label.
        counts: Training windows that have each label.
        num_windows: Training windows with labels.
    """
    import torch

    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear) and layer.out_features == len(counts) and layer.bias is not None
    ]
    if not layers or not num_windows or layers[-1].bias.any():
        return
    shares = (torch.tensor(counts, dtype=torch.float32) + 0.5) / (num_windows + 1)
    with torch.no_grad():
        layers[-1].bias.copy_(torch.logit(shares))
