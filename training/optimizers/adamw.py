"""Adam with decoupled weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from training.optimizers.base import BaseOptimizer

if TYPE_CHECKING:
    import torch


class AdamW(BaseOptimizer):
    """AdamW (arXiv 1711.05101), fused."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="peak learning rate, that of the head: a number, or auto by the encoder's width (2e-4 for 384 and less, 5e-5 for 768) and "
        "1e-3 for adapters",
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Two moments per weight."""
        import torch

        return torch.optim.AdamW(groups, lr=self.peak_learning_rate, fused=True)
