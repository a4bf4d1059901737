"""Whether a log holds the answers that were drawn, or only some of them: a test by the bundles that drew them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from agent.decisions.exploration import ExploreConfig
from agent.errors import EvidenceError
from cluster.bundles import fetch
from serving.inference.engine import Engine
from serving.judging.bundle_judgement import label_probabilities
from serving.judging.classified_log import ClassifiedLog

Float64 = npt.NDArray[np.float64]
_LEAST = 30  # decisions of all bundles; the mean of fewer is not normally distributed
_SURE = 4.0  # standard errors: an honest log is refused once in 16,000 judgements
_LOG_TEMPERATURES = np.linspace(math.log(0.01), math.log(100), 47)  # tried before the best of them is made exact
_ALIKE, _MOST = 0.02, 0.9  # propensities that differ by less are the bundle's own, where so many of them do


class Draws(NamedTuple):
    """How likely the answers of a log were, beside how likely answers are that are drawn; sums over decisions.

    Attributes:
        number: Decisions.
        seen: Probabilities of their answers.
        expected: The same of answers that are drawn: squared probabilities of all labels.
        variance: Of `seen`, where answers are drawn.
    """

    number: int
    seen: float
    expected: float
    variance: float

    @property
    def excess(self) -> float:
        """What is seen above what is expected, in standard errors."""
        return (self.seen - self.expected) / math.sqrt(self.variance) if self.variance else 0.0


def check_draws(log: ClassifiedLog, bundles: Sequence[str], *, precision: str = "auto") -> None:
    """Refuses a log that lacks decisions by what was answered, such as the wrong answers: no weighting makes up for those.

    An answer that explores is drawn, so of many the mean probability is known whatever the texts are. Decisions that were lost, or that
    nobody gave feedback on, do no harm as long as that does not hang on the answer. Told by the decisions of bundles that are at hand.

    Args:
        log: The decisions.
        bundles: Where bundles lie; those that gave no answer of the log count for nothing.
        precision: Of their ONNX graphs.

    Raises:
        EvidenceError: The answers are not those that were drawn.
        BundleError: A bundle cannot be served.
    """
    draws = list(_draws(log, bundles, precision))
    found = Draws(*(sum(column) for column in zip(*draws, strict=True))) if draws else Draws(0, 0, 0, 0)
    if found.number >= _LEAST and abs(found.excess) > _SURE:
        raise EvidenceError(
            f"the log cannot tell: {found.number:,} of its answers had a probability of {found.seen / found.number:.3f} on average, and drawn ones would have "
            f"{found.expected / found.number:.3f} ({abs(found.excess):.1f} standard errors): which decisions it holds hangs on what was answered",
            allowed=f"at most {_SURE:g} standard errors",
            remedy="ask for feedback whatever the answer was, and delete none by it; where no feedback means something, missing_reward says what",
        )


def _draws(log: ClassifiedLog, bundles: Iterable[str], precision: str) -> Iterator[Draws]:
    answered, chosen = np.array(log.bundles), np.array(log.chosen)
    known: set[str] = set()
    for place in bundles:
        bundle = fetch(place)
        labels = {label: number for number, label in enumerate(bundle.task.labels)}
        own = np.array([label in labels for label in log.labels], bool)  # not what a request named as candidates
        rows = np.flatnonzero((answered == bundle.digest) & (log.propensities < 1) & own)
        if bundle.digest in known or not len(rows):
            continue
        known.add(bundle.digest)
        engine = Engine(bundle, precision=precision)
        probabilities = label_probabilities(engine, [log.texts[row] for row in rows], labels)
        actions = np.array([labels[log.labels[row]] for row in rows])
        for kind in ("temperature", "epsilon"):
            of_kind = chosen[rows] == kind
            if of_kind.any():
                found = find_draws(kind, probabilities[of_kind], actions[of_kind], log.propensities[rows][of_kind])
                yield from [found] if found else []


def find_draws(
    kind: str, probabilities: Float64, actions: npt.NDArray[np.int64], propensities: Float64
) -> Draws | None:
    """Compares logged answers with what drawing gives; None where the logged propensities are not these probabilities'.

    Args:
        kind: `temperature` or `epsilon`.
        probabilities: Of each label by the model, float64 [decisions, labels].
        actions: Labels that were answered, int64 [decisions].
        propensities: As logged, float64 [decisions].
    """
    places = np.arange(len(actions))
    policy = _explored(kind, probabilities, actions, propensities).propensities(probabilities)
    answered = policy[places, actions]
    if float((np.abs(answered - propensities) <= _ALIKE).mean()) < _MOST:
        return None
    squares = np.square(policy).sum(axis=1)
    variances = (policy**3).sum(axis=1) - np.square(squares)
    return Draws(len(places), float(answered.sum()), float(squares.sum()), max(float(variances.sum()), 0.0))


def _explored(
    kind: str, probabilities: Float64, actions: npt.NDArray[np.int64], propensities: Float64
) -> ExploreConfig:
    """The setting that the logged propensities come from, as nearly as one setting can."""
    places = np.arange(len(actions))
    if kind == "epsilon":
        labels = probabilities.shape[1]
        best = actions == probabilities.argmax(axis=1)
        parts = np.where(best, (1 - propensities) * labels / max(1, labels - 1), propensities * labels)
        return ExploreConfig(epsilon=float(np.clip(np.median(parts), 1e-9, 1)))

    def of(log_temperature: float) -> ExploreConfig:
        return ExploreConfig(temperature=min(math.exp(log_temperature), 100))

    def distance(log_temperature: float) -> float:
        return float(np.abs(of(log_temperature).propensities(probabilities)[places, actions] - propensities).mean())

    best = min(_LOG_TEMPERATURES, key=distance)
    step = _LOG_TEMPERATURES[1] - _LOG_TEMPERATURES[0]
    found = minimize_scalar(distance, bounds=(best - step, best + step), method="bounded", options={"xatol": 1e-6})
    return of(float(found.x))
