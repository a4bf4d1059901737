"""Base of the optimizers: learning rates, weight decay, gradient clipping, parameter groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from agent.config.base import Config
from agent.errors import ModelError
from training.model.layer_depth import depths

if TYPE_CHECKING:
    import torch


class BaseOptimizer(Config, ABC):
    """Settings that all optimizers share. Biases and norms (one dimension) are not decayed."""

    # Whether it works on ZeRO's flat slices of the weights: its state is one number per weight.
    shardable: ClassVar[bool] = True

    kind: str
    # AdamW's may be `auto`, which is filled in before a run starts.
    learning_rate: float | Literal["auto"] = Field(description="peak learning rate, that of the head")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of matrices")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="each layer's rate as a part of that of the layer above it; 1: all have the same"
    )

    @property
    def peak_learning_rate(self) -> float:
        """The rate of a run whose `auto` has been filled in."""
        assert self.learning_rate != "auto"
        return self.learning_rate

    def build(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Makes the optimizer over the trainable parameters of a model; its first group has the peak rate.

        Raises:
            ModelError: `layer_decay` was asked for and the model has no numbered layers.
        """
        return self.make(self._groups(model))

    @abstractmethod
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Makes the optimizer over groups of `params`, each with its `lr` and `weight_decay`."""

    def _groups(self, model: torch.nn.Module) -> list[dict[str, Any]]:
        """Groups by rate and decay, highest rate first (layer-wise decay: arXiv 1801.06146, 2003.10555)."""
        steps = self._steps_below_head(model) if self.layer_decay < 1 else {}
        found: dict[tuple[int, bool], list[torch.nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                found[steps.get(name, 0), parameter.ndim <= 1].append(parameter)
        return [
            {
                "params": found[below, flat],
                "lr": self.peak_learning_rate * self.layer_decay**below,
                "weight_decay": 0.0 if flat else self.weight_decay,
            }
            for below, flat in sorted(found)
        ]

    def _steps_below_head(self, model: torch.nn.Module) -> dict[str, int]:
        depth_of = depths(model)
        head = max(depth_of.values())
        if head < 2:
            raise ModelError(
                f"optimizer.layer_decay={self.layer_decay}, but no parameter of {type(model).__name__} is named by its layer",
                allowed="names with layer.N, layers.N, h.N or block.N",
                remedy="set optimizer.layer_decay=1",
            )
        return {name: head - depth for name, depth in depth_of.items()}
