"""Focal loss: targets that the model already predicts well count less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agent.encoding import IGNORED
from training.objectives.base import BaseObjective, Loss

if TYPE_CHECKING:
    import torch


class Focal(BaseObjective):
    """(1 - p)^gamma times the cross-entropy, where p is the gold label's probability (arXiv 1708.02002)."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, description="how much less a target counts that is already right; 0: cross-entropy")

    def bind(self, counts: Sequence[int], device: torch.device) -> Loss:
        """A class weight multiplies the whole term of a target, as the paper's alpha."""
        import torch
        from torch.nn.functional import cross_entropy

        weights, gamma = self.weights(counts, device), self.gamma
        smallest = torch.finfo(torch.float32).eps  # at 1 - p = 0 the power has no finite slope for gamma < 1

        def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            flat, wanted = logits.float().reshape(-1, logits.shape[-1]), targets.reshape(-1)
            surprise = cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="none")
            terms = (-torch.expm1(-surprise)).clamp_min(smallest) ** gamma * surprise
            return (terms if weights is None else terms * weights[wanted.clamp_min(0)]).sum()

        return loss
