"""Training objectives (losses). Adding one is one file here and one line in the union below."""

from typing import Annotated

from pydantic import Field

from training.objectives.base import BaseObjective, Loss
from training.objectives.cross_entropy import CrossEntropy
from training.objectives.focal import Focal
from training.objectives.policy_gradient import PolicyGradient
from training.objectives.reward_likelihood import RewardLikelihood
from training.objectives.self_critical import SelfCritical

Objective = Annotated[
    CrossEntropy
    | Focal
    | PolicyGradient
    | RewardLikelihood
    | SelfCritical,
    Field(discriminator="kind"),
]  # fmt: skip

__all__ = [
    "BaseObjective",
    "CrossEntropy",
    "Focal",
    "Loss",
    "Objective",
    "PolicyGradient",
    "RewardLikelihood",
    "SelfCritical",
]
