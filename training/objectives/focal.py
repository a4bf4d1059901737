"""Focal loss: targets that the model already predicts well count less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agent.encoding import IGNORED
from training.objectives.base import BaseObjective, Loss, binary_terms
from training.objectives.window_facts import WindowFacts

if TYPE_CHECKING:
    import torch


class Focal(BaseObjective):
    """(1 - p)^gamma times the cross-entropy, where p is the gold label's probability (arXiv 1708.02002)."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, description="how much less a target counts that is already right; 0: cross-entropy")

    def choice_loss(self, weights: torch.Tensor | None) -> Loss:
        """A class weight multiplies the whole term of a target, as the paper's alpha."""
        from torch.nn.functional import cross_entropy

        def loss(logits: torch.Tensor, targets: torch.Tensor, _: WindowFacts | None = None, /) -> torch.Tensor:
            flat, wanted = logits.float().reshape(-1, logits.shape[-1]), targets.reshape(-1)
            surprise = cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="none")
            terms = self._terms(surprise)
            return (terms if weights is None else terms * weights[wanted.clamp_min(0)]).sum()

        return loss

    def binary_loss(self, weights: torch.Tensor | None) -> Loss:
        """As the paper has it: yes and no are the two classes of each output."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        def loss(logits: torch.Tensor, targets: torch.Tensor, _: WindowFacts | None = None, /) -> torch.Tensor:
            said, wanted, counted = binary_terms(logits, targets, weights)
            surprise = binary_cross_entropy_with_logits(said, wanted, reduction="none")
            return (self._terms(surprise) * counted).sum()

        return loss

    def _terms(self, surprise: torch.Tensor) -> torch.Tensor:
        """The terms of targets with this cross-entropy."""
        import torch

        smallest = torch.finfo(torch.float32).eps  # at 1 - p = 0 the power has no finite slope for gamma < 1
        return (-torch.expm1(-surprise)).clamp_min(smallest) ** self.gamma * surprise
