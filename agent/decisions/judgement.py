"""Judges a policy on logged decisions: its value by three estimators, and a refusal where the log cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent.config.base import Config
from agent.decisions.off_policy import Bootstrap, Estimate, LoggedRewards, effective_sample_size
from agent.errors import EvidenceError

_SURE = 4.0  # standard errors by which the mean weight may exceed 1: one fair log in 30,000
_LEAST_CLIP, _CLIP_SHARE = 10.0, 1 / 3  # weights count up to a third of the root of the number of decisions


class EvidenceConfig(Config):
    """What a log has to hold, and how sure intervals are."""

    min_decisions: int = Field(200, ge=2, description="decisions with a reward")
    min_effective: float = Field(
        100,
        ge=1,
        description="effective sample size: decisions of the judged policy itself that would tell as much as the log",
    )
    max_untold: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="part of the judged policy's answers of which the log holds none or hardly any; intervals are widened by it",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals")
    resamples: int = Field(1_000, ge=200, description="of the bootstrap")
    seed: int = Field(0, ge=0, description="of the bootstrap")


class Judgement(NamedTuple):
    """What a log tells of a policy.

    Attributes:
        num_decisions: With a reward.
        effective: Effective sample size.
        untold: Part of the judged policy's answers that the log does not tell of: what clipped weights lack to an average of 1.
        estimates: `logged` is what the logged answers earned, `ips`, `snips` and `doubly_robust` what the judged policy would have,
            `gain` the doubly robust value less what was earned.
    """

    num_decisions: int
    effective: float
    untold: float
    estimates: Mapping[str, Estimate]


class Difference(NamedTuple):
    """What one policy would have earned less what another would, on the same decisions.

    Attributes:
        estimate: Doubly robust, -1 to 1.
        share: Part of the decisions in which the two would not have answered alike.
        untold: What the log does not tell of their answers there, of both together.
    """

    estimate: Estimate
    share: float
    untold: float


class Told(NamedTuple):
    """What a log tells, where it tells enough: the decisions with clipped weights; `untold` and `effective` as in `Judgement`."""

    clipped: LoggedRewards
    untold: float
    effective: float


def judge(logged: LoggedRewards, config: EvidenceConfig | None = None) -> Judgement:
    """Judges a policy.

    Args:
        logged: The decisions, and what the policy would have done.
        config: What the log has to hold.

    Raises:
        EvidenceError: The log cannot tell; says why, and what would help.
    """
    config = config or EvidenceConfig()
    number = len(logged.rewards)
    clipped, untold, effective = told_by(logged, config)
    bootstrap = Bootstrap(number, confidence=config.confidence, resamples=config.resamples, seed=config.seed)
    robust = clipped.doubly_robust_terms()
    found = bootstrap.of_means(
        {
            "logged": logged.rewards,
            "ips": clipped.ips_terms(),
            "doubly_robust": robust,
            "gain": robust - logged.rewards,
        }
    )
    estimates = {
        "logged": _widened(found["logged"], 0, 0),
        "ips": _widened(found["ips"], 0, untold),  # what is lost was 0 or more
        "snips": _widened(bootstrap.of_snips(clipped), untold, untold),
        "doubly_robust": _widened(found["doubly_robust"], untold, untold),
        "gain": _widened(found["gain"], untold, untold, least=-1),
    }
    return Judgement(number, effective, untold, estimates)


def judge_difference(
    first: LoggedRewards, second: LoggedRewards, differs: npt.NDArray[np.bool_], config: EvidenceConfig | None = None
) -> Difference:
    """Judges one policy beside another, decision by decision: they earn the same where they answer alike, whatever the log tells of it.

    Args:
        first, second: The same decisions, and what each policy would have done.
        differs: bool [decisions], whether the two would have answered differently. It must hang on the text alone, not on the logged answer.
        config: What the log has to hold for each of them.

    Raises:
        EvidenceError: The log cannot tell of one of them.
    """
    config = config or EvidenceConfig()
    one, other = (told_by(logged, config).clipped for logged in (first, second))
    share = float(differs.mean())
    untold = sum(max(0.0, share - float((each.weights * differs).mean())) for each in (one, other))
    terms = np.where(differs, one.doubly_robust_terms() - other.doubly_robust_terms(), 0.0)
    bootstrap = Bootstrap(len(terms), confidence=config.confidence, resamples=config.resamples, seed=config.seed)
    return Difference(_widened(bootstrap.of_mean(terms), untold, untold, least=-1), share, untold)


def told_by(logged: LoggedRewards, config: EvidenceConfig) -> Told:
    """Clips weights, and refuses a log that holds too little.

    Rare large weights are what makes intervals too narrow: a log that lacks them by chance does not show it in its spread. So weights
    are clipped, and since their mean without clipping is 1 wherever every answer is possible, what clipped ones lack to 1 bounds
    what was lost (rewards lie between 0 and 1): intervals are widened by that.

    Raises:
        EvidenceError: The log cannot tell; says why, and what would help.
    """
    number = len(logged.rewards)
    if number < config.min_decisions:
        raise EvidenceError(
            f"the log cannot tell: it holds {number} decisions with a reward",
            allowed=f"at least {config.min_decisions} (evidence.min_decisions)",
            remedy="collect more feedback",
        )
    clipped = logged.clipped(max(_LEAST_CLIP, _CLIP_SHARE * number**0.5))
    untold = max(0.0, 1 - float(clipped.weights.mean()))
    effective = effective_sample_size(clipped.weights)
    _check(logged, untold, effective, config)
    return Told(clipped, untold, effective)


def _check(logged: LoggedRewards, untold: float, effective: float, config: EvidenceConfig) -> None:
    """Refuses a log that lacks the judged policy's answers.

    Raises:
        EvidenceError: It does, or its propensities are wrong.
    """
    weights = logged.weights
    if float(weights.mean()) - 1 > _SURE * float(weights.std()) / len(weights) ** 0.5 + 1e-9:
        raise EvidenceError(
            f"the log cannot tell: importance weights average {weights.mean():.3f}, so its propensities are wrong",
            allowed="an average near 1",
            remedy="judge on decisions of servers that log true propensities (since_days, agent)",
        )
    if untold > config.max_untold:
        raise EvidenceError(
            f"the log cannot tell: of {untold:.0%} of the judged agent's answers it holds none or hardly any",
            allowed=f"at most {config.max_untold:.0%} (evidence.max_untold)",
            remedy="serve with exploration (explore.temperature or explore.epsilon), and judge on what was logged since",
        )
    if effective < config.min_effective:
        raise EvidenceError(
            f"the log cannot tell: its {len(weights)} decisions are worth {effective:.0f} of the judged agent's own",
            allowed=f"at least {config.min_effective:g} (evidence.min_effective)",
            remedy="log more decisions, or explore more",
        )


def _widened(estimate: Estimate, below: float, above: float, *, least: float = 0) -> Estimate:
    """The interval with what the log does not tell, as far as rewards from 0 to 1 allow it."""
    return Estimate(estimate.value, max(estimate.low - below, least), min(estimate.high + above, 1.0))
