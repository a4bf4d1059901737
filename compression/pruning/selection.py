"""Which heads or units stay: the least important of all layers go first, but no layer is emptied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def select(scores: Sequence[Tensor], ratio: float, *, least: int) -> list[Tensor]:
    """Ranks over all layers at once.

    Args:
        scores: For each layer float32 [groups], higher is more important. Scores of a layer are divided by their norm
            before layers are compared (Michel et al., arXiv 1905.10650, section 4.1; Molchanov et al., arXiv 1611.06440).
        ratio: Part of all groups to remove. Fewer go if layers would fall below `least`.
        least: Groups that every layer keeps (or all that it has, if fewer).

    Returns:
        For each layer bool [groups], true where it stays.
    """
    import torch

    keeps = [torch.ones(len(layer), dtype=torch.bool) for layer in scores]
    left = int(ratio * sum(map(len, scores)))
    normed = [layer / layer.norm().clamp_min(1e-12) for layer in scores]
    ranked = sorted(
        (value, layer, group) for layer, row in enumerate(normed) for group, value in enumerate(row.tolist())
    )
    for _, layer, group in ranked:
        if left and int(keeps[layer].sum()) > least:
            keeps[layer][group] = False
            left -= 1
    return keeps
