"""Adam with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from training.optimizers.base import BaseOptimizer

if TYPE_CHECKING:
    import torch


class AdamW(BaseOptimizer):
    """AdamW (arXiv 1711.05101), fused."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate, that of the head")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Two moments per weight."""
        import torch

        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
