"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agent.config import Config

if TYPE_CHECKING:
    import torch


class AdamW(Config):
    """AdamW (arXiv 1711.05101), fused; biases and norms are not decayed."""

    kind: Literal["adamw"] = "adamw"
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices")
    warmup_fraction: float = Field(
        0.06, ge=0, lt=1, description="part of all steps over which the rate rises from 0; it then falls linearly to 0"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")

    def build(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Makes the optimizer over the trainable parameters of a model."""
        import torch

        trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        groups = [
            {
                "params": [parameter for _, parameter in trainable if parameter.ndim > 1],
                "weight_decay": self.weight_decay,
            },
            {"params": [parameter for _, parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(_not_empty(groups), lr=self.learning_rate, fused=True)

    def rate_at(self, step: int, num_steps: int) -> float:
        """The learning rate of a step as a part of the peak: linear warm-up, linear decay."""
        warmup = max(1, round(self.warmup_fraction * num_steps))
        return (step + 1) / warmup if step < warmup else max(0.0, (num_steps - step) / max(1, num_steps - warmup))


def _not_empty(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]
