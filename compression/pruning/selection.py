"""Selects the heads or units that stay, by importance over all layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def select(scores: Sequence[Tensor], ratio: float, *, minimum: int) -> list[Tensor]:
    """Removes the least important groups of all layers, but leaves each layer a minimum.

    Args:
        scores: For each layer float32 [groups], higher is more important. Scores of a layer are divided by their norm
            before layers are compared (Michel et al., arXiv 1905.10650, section 4.1; Molchanov et al., arXiv 1611.06440).
        ratio: Part of all groups to remove. Fewer go if layers would fall below `minimum`.
        minimum: Groups that every layer keeps (or all that it has, if fewer).

    Returns:
        For each layer bool [groups], true where it stays.
    """
    import torch

    keeps = [torch.ones(len(layer), dtype=torch.bool) for layer in scores]
    num_removed = int(ratio * sum(map(len, scores)))
    normed = [layer / layer.norm().clamp_min(1e-12) for layer in scores]
    ranked = sorted(
        (value, layer, group) for layer, row in enumerate(normed) for group, value in enumerate(row.tolist())
    )
    for _, layer, group in ranked:
        if num_removed and int(keeps[layer].sum()) > minimum:
            keeps[layer][group] = False
            num_removed -= 1
    return keeps
