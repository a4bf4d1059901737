"""Compares texts with those that a bundle was made with, by the statistics and the test that serving watches for drift."""

from __future__ import annotations

from collections.abc import Sequence

from agent import markdown
from agent.bundle import Bundle
from agent.config.base import Config
from agent.drift.drift_reference import STATISTICS
from agent.drift.observer import Observer
from agent.errors import BundleError, DataError
from serving.inference.engine import Engine
from serving.shift.drift_watch import find

_TEXTS_AT_ONCE = 1_000


class Statistic(Config):
    """What one statistic says: distance in total variation (0 to 1), the test's p-value, and whether that is drift."""

    distance: float
    p_value: float
    drifts: bool


class DriftCheck(Config):
    """Texts beside the distributions of a bundle.

    Attributes:
        bundle: Digest of the bundle.
        precision: Of the graph that answered.
        split, num_reference: What the bundle's distributions are of, and how many texts.
        num_texts: How many different ones were compared.
        alpha: The p-value below which a statistic drifts.
        statistics: By name.
    """

    bundle: str
    precision: str
    split: str
    num_reference: int
    num_texts: int
    alpha: float
    statistics: dict[str, Statistic]

    @property
    def drifted(self) -> list[str]:
        """Names of the statistics that drift."""
        return [name for name, one in self.statistics.items() if one.drifts]


def check_drift(bundle: Bundle, texts: Sequence[str], false_alarms: float, *, precision: str = "auto") -> DriftCheck:
    """Compares texts with the distributions of a bundle.

    Args:
        bundle: The agent.
        texts: Its inputs; what comes several times counts once.
        false_alarms: How often texts like those of the reference may be called otherwise, all statistics together (Bonferroni).
        precision: Of the graph that answers.

    Raises:
        BundleError: The bundle cannot be served, or recorded no distributions.
        DataError: There is no text.
    """
    reference = bundle.drift_reference
    if reference is None:
        raise BundleError(
            f"bundle {bundle.path} has no distributions to compare with", remedy="compress the agent again"
        )
    if not texts:
        raise DataError("there is no text to compare", remedy="give other texts with input= or log=")
    texts = list(dict.fromkeys(texts))
    engine, observed = Engine(bundle, precision=precision), []
    observer = Observer(bundle.task, bundle.encoder)
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[first : first + _TEXTS_AT_ONCE]
        documents = engine.encode(some)
        observed += [observer.observe(*one) for one in zip(some, documents, engine.run(documents), strict=True)]
    alpha = false_alarms / len(STATISTICS)
    found = {
        one.statistic: Statistic(distance=one.distance, p_value=one.p_value, drifts=one.p_value < alpha)
        for one in find(reference, reference.count(observed), alpha)
    }
    return DriftCheck(
        bundle=bundle.digest,
        precision=engine.variant.precision,
        split=reference.split,
        num_reference=reference.num_texts,
        num_texts=len(texts),
        alpha=alpha,
        statistics=found,
    )


def table(found: DriftCheck) -> str:
    """The comparison for people."""
    rows = [
        [name, f"{one.distance:.3f}", f"{one.p_value:.1e}", "drift" if one.drifts else ""]
        for name, one in found.statistics.items()
    ]
    head = f"{found.num_texts:,} texts beside the {found.num_reference:,} of the bundle's {found.split} split"
    end = f"drift: {', '.join(found.drifted)}" if found.drifted else "no drift"
    return "\n".join([head, "", *markdown.table([["statistic", "distance", "p-value", ""], *rows]), "", end])
