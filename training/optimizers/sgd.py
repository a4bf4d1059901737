"""Stochastic gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from training.optimizers.base import BaseOptimizer

if TYPE_CHECKING:
    import torch


class SGD(BaseOptimizer):
    """Gradient descent with momentum; its decay is the gradient's (L2), not decoupled."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(0.1, gt=0, description="peak learning rate, that of the head")
    momentum: float = Field(0.9, ge=0, lt=1, description="part of the last update that is kept")
    nesterov: bool = Field(False, description="take the gradient where the momentum leads")

    @model_validator(mode="after")
    def _momentum_for_nesterov(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """One moment per weight."""
        import torch

        return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum, nesterov=self.nesterov)
