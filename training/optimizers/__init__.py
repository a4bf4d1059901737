"""Optimizers. Adding one is one file here and one line in the union below."""

from typing import Annotated

from pydantic import Field

from training.optimizers.adafactor import Adafactor
from training.optimizers.adamw import AdamW
from training.optimizers.base import BaseOptimizer
from training.optimizers.sgd import SGD

Optimizer = Annotated[
    AdamW
    | SGD
    | Adafactor,
    Field(discriminator="kind"),
]  # fmt: skip

__all__ = ["SGD", "Adafactor", "AdamW", "BaseOptimizer", "Optimizer"]
