"""Base of the objectives that learn from logged answers with rewards, beside cross-entropy on labels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from agent.encoding import IGNORED
from agent.tasks import BaseTask
from agent.tasks.output_decision import PER_WINDOW
from training.objectives.base import BaseObjective, Loss
from training.objectives.cross_entropy import CrossEntropy
from training.objectives.window_facts import WindowFacts

if TYPE_CHECKING:
    import torch


class LoggedRewards(BaseObjective):
    """A term for each logged answer, cross-entropy for each label; both count as one target.

    A text of several windows is as many decisions with the same reward.
    """

    learns_from_rewards: ClassVar[bool] = True

    def refusal_of(self, task: BaseTask[Any]) -> str:
        """Answers have to be one label of a text."""
        if task.decision == PER_WINDOW:
            return ""
        return f"task.kind={task.kind} does not answer one label; it is for text_classification, text_pair_classification and relation_extraction"

    def choice_loss(self, weights: torch.Tensor | None) -> Loss:
        """Class weights are of labels; logged answers weigh what `terms` says."""
        return joined(CrossEntropy().choice_loss(weights), self.terms)

    def binary_loss(self, weights: torch.Tensor | None) -> Loss:
        """Of no task that `refusal_of` lets pass."""
        raise NotImplementedError(self.kind)

    @abstractmethod
    def terms(
        self, logits: torch.Tensor, answers: torch.Tensor, logged: torch.Tensor, mean_reward: float
    ) -> torch.Tensor:
        """The term of each decision: float32 [decisions].

        Args:
            logits: float [decisions, outputs].
            answers: int64 [decisions].
            logged: float32 [decisions, 2], propensities and rewards.
            mean_reward: Of the log.
        """


def joined(
    labelled_loss: Loss, terms: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]
) -> Loss:
    """The sum of a loss of labels and of terms of logged answers, as `LoggedRewards.terms` gives them."""

    def loss(logits: torch.Tensor, targets: torch.Tensor, facts: WindowFacts | None = None, /) -> torch.Tensor:
        if facts is None or math.isnan(facts.mean_reward):  # a dry run may see labels alone
            return labelled_loss(logits, targets)
        import torch

        logged = torch.from_numpy(facts.logged).to(logits.device)
        decided = ~logged[:, 1].isnan() & (targets != IGNORED)
        labelled = labelled_loss(logits, targets.masked_fill(decided, IGNORED))
        found = terms(logits, targets.clamp_min(0), logged.nan_to_num(1.0), facts.mean_reward)
        return labelled + torch.where(decided, found, torch.zeros_like(found)).sum()

    return loss
