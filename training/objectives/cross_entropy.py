"""Supervised fine-tuning: cross-entropy of the gold label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agent.encoding import IGNORED
from training.objectives.base import BaseObjective, Loss, binary_terms
from training.objectives.window_facts import WindowFacts

if TYPE_CHECKING:
    import torch


class CrossEntropy(BaseObjective):
    """The negative logarithm of the gold label's probability."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread over all labels")

    def choice_loss(self, weights: torch.Tensor | None) -> Loss:
        """Label smoothing spreads its mass over the classes by their weights, as torch does."""
        from torch.nn.functional import cross_entropy

        smoothing = self.label_smoothing

        def loss(logits: torch.Tensor, targets: torch.Tensor, _: WindowFacts | None = None, /) -> torch.Tensor:
            flat = logits.float().reshape(-1, logits.shape[-1])
            return cross_entropy(
                flat, targets.reshape(-1), weights, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
            )

        return loss

    def binary_loss(self, weights: torch.Tensor | None) -> Loss:
        """Label smoothing spreads its mass over yes and no."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        smoothing = self.label_smoothing

        def loss(logits: torch.Tensor, targets: torch.Tensor, _: WindowFacts | None = None, /) -> torch.Tensor:
            said, wanted, counted = binary_terms(logits, targets, weights)
            smooth = wanted * (1 - smoothing) + smoothing / 2
            return binary_cross_entropy_with_logits(said, smooth, counted, reduction="sum")

        return loss
