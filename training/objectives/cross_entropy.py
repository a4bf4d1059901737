"""Supervised fine-tuning: cross-entropy of the gold label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agent.config import Config
from agent.encoding import IGNORED

if TYPE_CHECKING:
    import torch


class CrossEntropy(Config):
    """Sum over labelled targets; the caller divides by their number over all workers."""

    kind: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread over all labels")

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Computes the summed loss in fp32.

        Args:
            logits: float [rows, tokens, outputs] or [rows, outputs].
            targets: int64 [rows, tokens] or [rows]; -100 is left out.
        """
        from torch.nn.functional import cross_entropy

        flat = logits.float().reshape(-1, logits.shape[-1])
        return cross_entropy(
            flat, targets.reshape(-1), ignore_index=IGNORED, reduction="sum", label_smoothing=self.label_smoothing
        )
