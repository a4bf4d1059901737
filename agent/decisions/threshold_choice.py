"""Chooses for each label the score from which on it is answered, so that decisions cost least; cross-fitted costs with intervals, in NumPy.

What an agent may say is an option: the class of a text, each label of a text, an entity. It costs something said and something
unsaid. A label with few options of its own is helped by those of all others, at its own prices (`shrinkage`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agent.decisions.off_policy import Bootstrap, Estimate

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NEVER = 1.1
"""A threshold that no probability reaches."""


class Options(NamedTuple):
    """What an agent may say of texts. Arrays are [options] unless said otherwise.

    Attributes:
        texts: int64, index of the text.
        labels: int64, index of the label.
        scores: float64, 0 to 1.
        said, unsaid: float64, what it costs to say it and not to say it.
        wrong, lost: float64, the same in units of a price: how wrong it is to say it (0 to its weight), how much is lost unsaid.
        plain: bool, whether the agent says it without thresholds of ours.
        fixed: float64 [texts], what a text costs whatever is said.
    """

    texts: Int64
    labels: Int64
    scores: Float64
    said: Float64
    unsaid: Float64
    wrong: Float64
    lost: Float64
    plain: Bool
    fixed: Float64

    def of_texts(self, chosen: Bool) -> Options:
        """Those of some texts, bool [texts]; the others keep their places and have none."""
        kept = chosen[self.texts]
        return self._replace(
            texts=self.texts[kept], labels=self.labels[kept], scores=self.scores[kept], said=self.said[kept],
            unsaid=self.unsaid[kept], wrong=self.wrong[kept], lost=self.lost[kept], plain=self.plain[kept],
        )  # fmt: skip

    def costs(self, said: Bool) -> Float64:
        """What each text costs if these options are said, float64 [texts]."""
        each = np.where(said, self.said, self.unsaid)
        return self.fixed + np.bincount(self.texts, weights=each, minlength=len(self.fixed))

    def reaching(self, thresholds: Float64) -> Bool:
        """Which options reach the thresholds of their labels, float64 [labels]."""
        return np.asarray(self.scores >= thresholds[self.labels])


class Prices(NamedTuple):
    """What one unit of `wrong` and of `lost` costs, float64 [labels]."""

    wrong: Float64
    lost: Float64


class Chosen(NamedTuple):
    """Thresholds, and what they cost on texts that they were not chosen on.

    Attributes:
        thresholds: float64 [labels].
        estimates: Cost of a text: `plain` as the agent is, `policy` with thresholds, `silent` if nothing is ever said, and `saving`, which is
            plain less policy.
        withheld: Part of what the agent says as it is that the thresholds do not let it say.
        added: What they let it say beyond that, in the same measure.
    """

    thresholds: Float64
    estimates: Mapping[str, Estimate]
    withheld: float
    added: float


def choose_thresholds(options: Options, prices: Prices, *, shrinkage: float) -> Float64:
    """The thresholds of least cost, float64 [labels]: midpoints of neighbouring scores, 0 to say all, `NEVER` to say nothing.

    Args:
        options: What can be said.
        prices: Of each label.
        shrinkage: How many options all those of other labels together count for, at the prices of the label in question.
    """
    order = np.argsort(-options.scores, kind="stable")
    scores, labels = options.scores[order], options.labels[order]
    wrong, lost = options.wrong[order], options.lost[order]
    own_cost = (options.said - options.unsaid)[order]
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True)) + 1 if len(scores) else np.zeros(0, np.int64)
    found = np.zeros(len(prices.wrong))
    for label in range(len(found)):
        own = labels == label
        others = shrinkage / max(1, len(own) - int(own.sum()))
        borrowed = others * (wrong * prices.wrong[label] - lost * prices.lost[label])
        changes = np.where(own, own_cost, borrowed)
        found[label] = _cheapest(scores, np.concatenate([[0.0], np.cumsum(changes)]), ends)
    return found


def _cheapest(scores: Float64, totals: Float64, ends: Int64) -> float:
    """The threshold below the best number of highest scores; of equals the one that says most.

    Args:
        scores: In falling order.
        totals: What it costs to say so many of them, [scores + 1].
        ends: Numbers at which a threshold can stand, since the next score is lower.
    """
    numbers = np.concatenate([[0], ends])
    values = totals[numbers]
    best = int(numbers[len(values) - 1 - int(np.argmin(values[::-1]))])
    if best == 0:
        return NEVER if len(scores) else 0.0
    return 0.0 if best == len(scores) else float((scores[best - 1] + scores[best]) / 2)


def cross_fitted(options: Options, prices: Prices, folds: Int64, *, shrinkage: float, bootstrap: Bootstrap) -> Chosen:
    """Chooses on everything, and tells what thresholds so chosen cost on texts of folds that they were not chosen on.

    Args:
        options: What can be said.
        prices: Of each label.
        folds: Of each text, int64 [texts].
        shrinkage: As in `choose_thresholds`.
        bootstrap: Makes intervals.
    """
    said = np.zeros(len(options.texts), dtype=bool)
    for fold in np.unique(folds):
        thresholds = choose_thresholds(options.of_texts(folds != fold), prices, shrinkage=shrinkage)
        own = folds[options.texts] == fold
        said[own] = options.reaching(thresholds)[own]
    plain, policy = options.costs(options.plain), options.costs(said)
    silent = options.costs(np.zeros_like(said))
    estimates = bootstrap.of_means({"plain": plain, "policy": policy, "silent": silent, "saving": plain - policy})
    for name in ("policy", "saving"):
        estimates[name] = _corrected(estimates[name], len(np.unique(folds)))
    number = max(1, int(options.plain.sum()))
    withheld, added = float((options.plain & ~said).sum()) / number, float((said & ~options.plain).sum()) / number
    return Chosen(choose_thresholds(options, prices, shrinkage=shrinkage), estimates, withheld, added)


def _corrected(estimate: Estimate, num_folds: int) -> Estimate:
    """The interval, wider because thresholds vary with the evidence that also judges them.

    Costs of folds are not independent: what makes one dear makes the choice on it careful. Source: the corrected variance of Nadeau and
    Bengio (Inference for the Generalization Error, Machine Learning 52, 2003), (1/folds + 1/(folds - 1)) times that of a fold's mean.
    """
    factor = (1 + num_folds / (num_folds - 1)) ** 0.5 if num_folds > 1 else 1.0
    value, low, high = estimate
    return Estimate(value, value - factor * (value - low), value + factor * (high - value))
