"""Off-policy policy gradient on logged decisions with rewards, beside cross-entropy on labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from training.objectives.logged_rewards import LoggedRewards

if TYPE_CHECKING:
    import torch


class PolicyGradient(LoggedRewards):
    """-min(pi / mu, clip) (reward - baseline) log pi of each logged answer, cross-entropy of each label; both count as one target.

    pi is the probability of the answer by the model, mu the logged one. The gradient goes through log pi alone: unclipped it is that of
    the value by importance sampling, since pi' / mu = (pi / mu) (log pi)'. A ratio beyond `clip` counts as `clip` and still teaches
    (truncated importance sampling, Ionides 2008, doi 10.1198/106186008X320456); a gradient through the clipped ratio itself would be zero.

    Of the published forms this is BanditNet's (Joachims, Swaminathan and de Rijke, ICLR 2018): rewards are translated by a constant. A
    self-normalised objective (Swaminathan and Joachims, NeurIPS 2015) divides by the sum of ratios over the whole log, is no sum over
    decisions, and so would depend on how these are cut into batches; its optimum is that of a translated one with the right constant.
    Without any translation a reward of 0 teaches nothing and one above 0 pulls, however poor it is. The penalty on the variance of POEM
    (arXiv 1502.02362) is left to clipping. The constant must not depend on the answer, or the gradient would be biased: so there is
    none for each label.
    """

    kind: Literal["policy_gradient"] = "policy_gradient"
    clip: float = Field(
        10.0,
        gt=0,
        description="largest ratio of the model's probability of an answer to the logged one; 10 is what judging allows at least",
    )
    baseline: Literal["mean", "none"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "mean",
        description="what rewards are compared with: the mean reward of the log, a number from 0 to 1, or none; answers with less become less likely",
    )
    entropy: float = Field(
        0.0,
        ge=0,
        description="weight of the entropy of the model's probabilities of a logged text, which is added to its reward",
    )

    def terms(
        self, logits: torch.Tensor, answers: torch.Tensor, logged: torch.Tensor, mean_reward: float
    ) -> torch.Tensor:
        """The term of each decision, as in the class's first line."""
        log_probs = logits.float().log_softmax(-1)
        chosen = log_probs.gather(1, answers[:, None])[:, 0]
        ratios = (chosen.detach() - logged[:, 0].log()).clamp_max(math.log(self.clip)).exp()
        terms = -ratios * (logged[:, 1] - self._constant(mean_reward)) * chosen
        if self.entropy:
            terms = terms + self.entropy * (log_probs.exp() * log_probs).sum(-1)
        return terms

    def _constant(self, mean_reward: float) -> float:
        """What is taken off every reward."""
        if isinstance(self.baseline, str):
            return mean_reward if self.baseline == "mean" else 0.0
        return self.baseline
