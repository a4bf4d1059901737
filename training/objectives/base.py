"""Base of the objectives: a loss over labelled targets, and class weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from agent.config.base import Config
from agent.encoding import IGNORED, Float32
from agent.errors import ConfigError
from agent.tasks import BaseTask
from agent.tasks.output_decision import PER_WINDOW, Decision
from training.objectives.window_facts import WindowFacts

if TYPE_CHECKING:
    import torch


class Loss(Protocol):
    """The loss of a batch, summed over its targets in fp32."""

    def __call__(
        self, logits: torch.Tensor, targets: torch.Tensor, facts: WindowFacts | None = None, /
    ) -> torch.Tensor:
        """The sum.

        Args:
            logits: float [..., outputs].
            targets: int64 [...]; -100 is left out.
            facts: Of the windows of the batch; None: nothing is known but their targets.
        """


_POWER = {"balanced": 1.0, "sqrt": 0.5}


class BaseObjective(Config, ABC):
    """A loss per labelled target; the caller divides the sum by their number over all workers."""

    learns_from_rewards: ClassVar[bool] = False  # whether answers of logged decisions are data, beside right labels

    kind: str
    class_weights: Literal["none", "balanced", "sqrt"] = Field(
        "none", description="weight of a target by how rare its class is: one over its share, or the root of that"
    )

    def refusal_of(self, task: BaseTask[Any]) -> str:
        """Why a task cannot be taught so; empty where it can."""
        return ""

    def bind(
        self,
        counts: Sequence[int],
        device: torch.device,
        decision: Decision = PER_WINDOW,
        task: BaseTask[Any] | None = None,
        rewarded: Sequence[float] = (),
    ) -> Loss:
        """Makes the loss of a run.

        Args:
            counts: Training targets of each output.
            device: Where logits will be.
            decision: Of the task; by default one output is chosen.
            task: For objectives that ask it how good an answer is.
            rewarded: Sum of the rewards of logged answers, for each output; empty where there are none.

        Raises:
            ConfigError: What is configured has no meaning for the task.
        """
        if decision.of_vocabulary and self.class_weights != "none":
            raise ConfigError(
                f"objective.class_weights={self.class_weights} is about labels, and this task chooses of a vocabulary",
                allowed="none",
                remedy="leave it out",
            )
        if decision.of_tokens and (given := sorted({"class_weights", "label_smoothing"} & self._changed())):
            raise ConfigError(
                f"objective.{given[0]} is about labels, and this task chooses tokens",
                allowed="its default",
                remedy="leave it out",
            )
        weights = self.weights(counts, device)
        return self.binary_loss(weights) if decision.binary else self.choice_loss(weights)

    def _changed(self) -> set[str]:
        """The keys whose values are not their defaults."""
        return {name for name, key in type(self).model_fields.items() if getattr(self, name) != key.default}

    @abstractmethod
    def choice_loss(self, weights: torch.Tensor | None) -> Loss:
        """The loss where one output is chosen.

        Args:
            weights: Of each class, fp32 [outputs].
        """

    @abstractmethod
    def binary_loss(self, weights: torch.Tensor | None) -> Loss:
        """The loss where each output is decided by itself; targets are 1 or 0, int64 [..., outputs].

        Args:
            weights: Of the targets that are 1, for each output, fp32 [outputs].
        """

    def weights(self, counts: Sequence[int], device: torch.device) -> torch.Tensor | None:
        """Weight of each class, fp32 [outputs], or None where all weigh the same."""
        import torch

        if self.class_weights == "none":
            return None
        return torch.from_numpy(_weights(np.asarray(counts, np.float64), _POWER[self.class_weights])).to(device)


def binary_terms(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labelled targets of binary outputs: logits, targets and weights, fp32 [targets] each."""
    import torch

    known, wanted = targets != IGNORED, targets.clamp_min(0).float()
    counted = torch.ones_like(wanted) if weights is None else torch.where(wanted > 0, weights, torch.ones_like(wanted))
    return logits.float()[known], wanted[known], counted[known]


def _weights(counts: np.ndarray[tuple[int, ...], np.dtype[np.float64]], power: float) -> Float32:
    """(1 / count) ** power, scaled to a mean of 1 over the training targets, so that the learning rate keeps its meaning.

    A class without a target weighs 1; it counts in label smoothing only.
    """
    seen = counts > 0
    weights = np.ones_like(counts)
    weights[seen] = counts[seen] ** -power
    weights[seen] *= counts.sum() / (weights * counts).sum()
    return weights.astype(np.float32)
