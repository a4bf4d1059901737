"""Adam's second moment from row and column sums: next to no optimizer state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from training.optimizers.base import BaseOptimizer

if TYPE_CHECKING:
    import torch


class Adafactor(BaseOptimizer):
    """Adafactor (arXiv 1804.04235). Its rate is a part of each matrix's own size, so it is larger than AdamW's."""

    # The factors are sums over a matrix's rows and columns, and ZeRO's flat slices have neither.
    shardable: ClassVar[bool] = False

    kind: Literal["adafactor"] = "adafactor"
    learning_rate: float = Field(
        0.003, gt=0, description="peak learning rate, that of the head, relative to the root mean square of each matrix"
    )

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """A row and a column per matrix."""
        import torch

        return torch.optim.Adafactor(groups, lr=self.learning_rate)
