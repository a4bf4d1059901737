"""Off-policy evaluation: what a policy would have earned on decisions that another one took, with intervals, in NumPy.

w is the weight of a decision: the probability with which the judged policy would have answered as was answered, over that of
the policy that did. IPS: mean of w r (Horvitz and Thompson, 1952). SNIPS: sum of w r over sum of w (Swaminathan and Joachims,
2015). Doubly robust: mean of q(x, policy) + w (r - q(x, a)) with a reward model q (Dudik, Langford and Li, 2011, arXiv 1103.4601).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_CELLS = 8_000_000  # of the table of resamples that is in memory at once


class Estimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


class LoggedRewards(NamedTuple):
    """Decisions with rewards, and what a policy to be judged would have done in their place. Each array is float64 [decisions].

    Attributes:
        rewards: What was earned, 0 to 1.
        propensities: Probability with which the answer was chosen, above 0.
        target: Probability with which the judged policy chooses the same answer.
        model_logged: What a reward model expects of the answer.
        model_target: What it expects of the judged policy.
    """

    rewards: Float64
    propensities: Float64
    target: Float64
    model_logged: Float64
    model_target: Float64

    @property
    def weights(self) -> Float64:
        """How much more often the judged policy would have answered so."""
        return self.target / self.propensities

    def clipped(self, most: float) -> LoggedRewards:
        """The same with weights of at most `most`: less varied, and of a policy that gives some answers less often."""
        return self._replace(target=np.minimum(self.target, most * self.propensities))

    def ips_terms(self) -> Float64:
        """One term per decision, whose mean is the estimate."""
        return self.weights * self.rewards

    def doubly_robust_terms(self) -> Float64:
        """One term per decision, whose mean is the estimate."""
        return self.model_target + self.weights * (self.rewards - self.model_logged)


def effective_sample_size(weights: Float64) -> float:
    """How many decisions of the judged policy itself would tell as much (Kish): (sum of w)^2 / sum of w^2; 0 without any weight."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def snips(logged: LoggedRewards) -> float:
    """The self-normalised estimate; not a number if no weight is above 0."""
    weights = logged.weights
    total = weights.sum()
    return float((weights * logged.rewards).sum() / total) if total else float("nan")


class Bootstrap:
    """Studentised bootstrap intervals (Efron and Tibshirani, 1993, chapter 12), which follow the skew that large weights bring.

    Every interval comes of the same resamples, so that a difference and its parts agree.

    Args:
        num_decisions: How many there are.
        confidence: Of the intervals.
        resamples: How many.
        seed: Of the resamples.
    """

    def __init__(self, num_decisions: int, *, confidence: float = 0.95, resamples: int = 1_000, seed: int = 0) -> None:
        self._number, self._resamples, self._seed = num_decisions, resamples, seed
        self._kept: Float64 | None = None
        self._tails = (0.5 - confidence / 2, 0.5 + confidence / 2)

    def of_mean(self, terms: Float64) -> Estimate:
        """The mean of one term per decision."""
        return self.of_means({"": terms})[""]

    def of_means(self, terms: dict[str, Float64]) -> dict[str, Estimate]:
        """The means of several kinds of terms."""
        columns = [column for each in terms.values() for column in (each, np.square(each))]
        sums = self._resampled(np.stack(columns, axis=1))
        found = {}
        for place, (name, each) in enumerate(terms.items()):
            means = sums[:, 2 * place] / self._number
            variances = sums[:, 2 * place + 1] / self._number - np.square(means)
            found[name] = self._interval(float(each.mean()), float(each.var()), means, variances)
        return found

    def of_snips(self, logged: LoggedRewards) -> Estimate:
        """The self-normalised estimate; its error is that of w (r - value) over the mean of w."""
        weights, rewards = logged.weights, logged.rewards
        value = snips(logged)
        columns = [weights, weights * rewards, weights**2, weights**2 * rewards, (weights * rewards) ** 2]
        w, wr, ww, wwr, wwrr = self._resampled(np.stack(columns, axis=1)).T / self._number
        with np.errstate(divide="ignore", invalid="ignore"):
            values = wr / w
            variances = (wwrr - 2 * values * wwr + np.square(values) * ww) / np.square(w)
        error = weights * (rewards - value) / weights.mean()
        return self._interval(value, float(np.square(error).mean()), values, variances)

    def _interval(self, value: float, variance: float, values: Float64, variances: Float64) -> Estimate:
        """Values and variances of resamples turn into quantiles of (value - truth) / error, which may be as skewed as they are."""
        with np.errstate(divide="ignore", invalid="ignore"):
            students = (values - value) / np.sqrt(np.maximum(variances, 0.0))
        students = np.where(np.isnan(students), 0.0, students)  # resamples whose terms are all alike
        lower, upper = np.quantile(students, self._tails, method="inverted_cdf")
        error = float(np.sqrt(variance))
        if not error:
            return Estimate(value, value, value)
        return Estimate(value, value - float(upper) * error, value - float(lower) * error)

    def _resampled(self, columns: Float64) -> Float64:
        """Sums of the columns over each resample: float64 [resamples, columns]."""
        return np.concatenate([counts @ columns for counts in self._parts()])

    def _parts(self) -> Iterator[Float64]:
        """How often each resample holds each decision, float64 [some resamples, decisions]; kept where that is small."""
        if self._kept is not None:
            yield self._kept
            return
        rng = np.random.default_rng(self._seed)
        at_once = max(1, _CELLS // self._number)
        for first in range(0, self._resamples, at_once):
            rows = min(at_once, self._resamples - first)
            drawn = rng.integers(0, self._number, (rows, self._number), dtype=np.int32)
            places = drawn + self._number * np.arange(rows)[:, None]
            counts = np.bincount(places.ravel(), minlength=rows * self._number).astype(np.float64)
            part = counts.reshape(rows, self._number)
            if rows == self._resamples:
                self._kept = part
            yield part
