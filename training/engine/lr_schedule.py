"""Learning-rate schedule: warm-up, then linear, cosine or no decay."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from agent.config.base import Config


class Schedule(Config):
    """Linear warm-up to the peak, then decay to 0 or none."""

    kind: Literal["linear", "cosine", "constant"] = Field(
        "linear",
        description="how the rate goes on after the warm-up: a line to 0, half a cosine to 0, or the peak kept",
    )
    warmup_fraction: float = Field(0.06, ge=0, lt=1, description="part of all steps over which the rate rises from 0")

    def rate_at(self, step: int, num_steps: int) -> float:
        """The learning rate of a step, counted from 0, as a fraction of the peak (cosine: arXiv 1608.03983)."""
        warmup = max(1, round(self.warmup_fraction * num_steps))
        if step < warmup:
            return (step + 1) / warmup
        left = max(0.0, (num_steps - step) / max(1, num_steps - warmup))
        shapes = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}
        return shapes[self.kind]
