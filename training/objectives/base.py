"""Base of the objectives: a loss over labelled targets, and class weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from pydantic import Field

from agent.config.base import Config
from agent.encoding import Float32

if TYPE_CHECKING:
    import torch

Loss: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
"""Of logits, float [..., outputs], and targets, int64 [...] (-100 is left out): the sum over labelled targets in fp32."""

_POWER = {"balanced": 1.0, "sqrt": 0.5}


class BaseObjective(Config, ABC):
    """A loss per labelled target; the caller divides the sum by their number over all workers."""

    kind: str
    class_weights: Literal["none", "balanced", "sqrt"] = Field(
        "none", description="weight of a target by how rare its class is: one over its share, or the root of that"
    )

    @abstractmethod
    def bind(self, counts: Sequence[int], device: torch.device) -> Loss:
        """Makes the loss of a run.

        Args:
            counts: Training targets of each output.
            device: Where logits will be.
        """

    def weights(self, counts: Sequence[int], device: torch.device) -> torch.Tensor | None:
        """Weight of each class, fp32 [outputs], or None where all weigh the same."""
        import torch

        if self.class_weights == "none":
            return None
        return torch.from_numpy(_weights(np.asarray(counts, np.float64), _POWER[self.class_weights])).to(device)


def _weights(counts: np.ndarray[tuple[int, ...], np.dtype[np.float64]], power: float) -> Float32:
    """(1 / count) ** power, scaled to a mean of 1 over the training targets, so that the learning rate keeps its meaning.

    A class without a target weighs 1; it counts in label smoothing only.
    """
    seen = counts > 0
    weights = np.ones_like(counts)
    weights[seen] = counts[seen] ** -power
    weights[seen] *= counts.sum() / (weights * counts).sum()
    return weights.astype(np.float32)
