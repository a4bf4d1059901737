"""Maximum likelihood of being told right or wrong, beside cross-entropy on labels, with classes weighted back to the labels' shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from agent.encoding import Float32
from agent.tasks import BaseTask
from agent.tasks.output_decision import PER_WINDOW, Decision
from training.objectives.base import Loss
from training.objectives.cross_entropy import CrossEntropy
from training.objectives.logged_rewards import LoggedRewards, joined

if TYPE_CHECKING:
    import torch

_LEAST = 1e-6  # of the probability of what was told


class RewardLikelihood(LoggedRewards):
    """-(r log q + (1 - r) log(1 - q)) of each logged answer, q = f + (1 - 2 f) pi: pi is its probability by the model, r its reward from 0 to 1.

    If r says whether an answer is right, and is turned around in the part f of all cases, this is the likelihood of what was observed, as
    cross-entropy is of a label: an answer that was right is a label, one that was wrong says that it is another one (a complementary
    label, arXiv 1705.07541; f: forward correction, arXiv 1609.03683). Which answers were tried does not matter, so propensities have no
    part. Of rewards of another kind, such as clicks, pi is no probability: take `policy_gradient`.

    What is asked about may have other shares of classes than the labels have, and a log that grows would teach the model to answer
    the others seldom. So classes are weighted by the ratio of their shares, among the labels over among labels and rewarded
    answers together (as for label shift, arXiv 1802.03916), to the power of `label_shift`. The class of a text with a wrong answer is not
    known; it weighs what one with a right answer does on average.
    """

    kind: Literal["reward_likelihood"] = "reward_likelihood"
    false_rewards: float = Field(
        0.1,
        ge=0,
        lt=0.5,
        description="part of the rewards that are taken to be turned around, by mistake or lie; bounds what a single one can teach",
    )
    label_shift: float = Field(
        0.5,
        ge=0,
        le=1,
        description="how far classes are weighted back to the shares that they have among the labels: 1 wholly, 0 not at all",
    )

    def bind(
        self,
        counts: Sequence[int],
        device: torch.device,
        decision: Decision = PER_WINDOW,
        task: BaseTask[Any] | None = None,
        rewarded: Sequence[float] = (),
    ) -> Loss:
        """Makes the loss of a run; `rewarded` has to be given where there are logged answers."""
        import torch

        found, average = shift_weights(counts, rewarded or [0.0] * len(counts), self.label_shift)
        shift, weights = torch.from_numpy(found).to(device), self.weights(counts, device)
        labelled = CrossEntropy().choice_loss(shift if weights is None else shift * weights)

        def terms(
            logits: torch.Tensor, answers: torch.Tensor, logged: torch.Tensor, mean_reward: float
        ) -> torch.Tensor:
            rewards = logged[:, 1]
            factors = rewards * shift[answers] + (1 - rewards) * average
            return factors * self.terms(logits, answers, logged, mean_reward)

        return joined(labelled, terms)

    def terms(
        self, logits: torch.Tensor, answers: torch.Tensor, logged: torch.Tensor, mean_reward: float
    ) -> torch.Tensor:
        """The negative log-likelihood of each reward."""
        probabilities = logits.float().softmax(-1).gather(1, answers[:, None])[:, 0]
        told_right = self.false_rewards + (1 - 2 * self.false_rewards) * probabilities
        right, wrong = (chances.clamp_min(_LEAST).log() for chances in (told_right, 1 - told_right))
        return -(logged[:, 1] * right + (1 - logged[:, 1]) * wrong)


def shift_weights(counts: Sequence[int], rewarded: Sequence[float], power: float) -> tuple[Float32, float]:
    """The weight of each class, and of a rewarded answer on average.

    Args:
        counts: Labels of each class.
        rewarded: Rewards of the answers of each class, summed.
        power: Of the ratio of shares; one label more is counted of each class, so that none weighs nothing.

    Returns:
        Weights with a mean of 1 over labels and rewarded answers, fp32 [classes], and their mean over rewarded answers alone.
    """
    labels, answers = np.asarray(counts, np.float64) + 1, np.asarray(rewarded, np.float64)
    both = labels + answers
    weights = ((labels / labels.sum()) / (both / both.sum())) ** power
    weights *= both.sum() / (weights * both).sum()
    average = float((weights * answers).sum() / answers.sum()) if answers.any() else 1.0
    return weights.astype(np.float32), average
