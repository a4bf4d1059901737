"""Watches for drift in a replica: counts a sample of the texts that it answers, and tests block after block of them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from agent import telemetry
from agent.bundle import Bundle
from agent.config.base import Config
from agent.drift.drift_reference import STATISTICS, DriftReference
from agent.drift.observer import Observation, Observer
from agent.encoding import Document, Float32
from serving.metrics import Metrics
from serving.shift.homogeneity import compare

_log = logging.getLogger(__name__)
_YEAR_S = 365 * 86_400.0
_LEAST_P = 1e-300


class DriftConfig(Config):
    """How a replica compares recent texts with those that the bundle was made with."""

    watch: bool = Field(True, description="look for drift, where the bundle recorded distributions")
    block_texts: int = Field(500, ge=50, description="texts that are compared at once")
    block_s: float = Field(
        3600,
        gt=0,
        description="seconds over which the texts of a block are spread, at least; the others are not looked at",
    )
    false_alarms_per_year: float = Field(
        0.1,
        gt=0,
        description="false alarms of a replica in a year of texts as in the reference, all statistics together",
    )

    @property
    def alpha(self) -> float:
        """The p-value below which one statistic of one block alarms (Bonferroni over statistics and the blocks of a year)."""
        return min(0.5, self.false_alarms_per_year * self.block_s / _YEAR_S / len(STATISTICS))


class Finding(NamedTuple):
    """One statistic of a block.

    Attributes:
        statistic: Its name.
        distance: From the reference, in total variation (0 to 1).
        p_value: How often texts of the same distribution differ so much.
        evidence: Logarithm of the p-value over that of the one that alarms: 1 and more is an alarm.
    """

    statistic: str
    distance: float
    p_value: float
    evidence: float


def find(reference: DriftReference, counts: Sequence[Sequence[int]], alpha: float) -> list[Finding]:
    """Compares a block, by bins of each statistic, with the reference."""
    found = []
    for name, before, now in zip(STATISTICS, reference.counts, counts, strict=True):
        distances, p_values = compare(np.array(before), np.array([now]))
        evidence = math.log(max(float(p_values[0]), _LEAST_P)) / math.log(alpha)
        found.append(Finding(name, float(distances[0]), float(p_values[0]), evidence))
    return found


class DriftWatch:
    """The block that is filled now. Texts may come from several threads.

    Args:
        reference: What they are compared with.
        observer: Of the same bundle.
        config: How.
        metrics: Where findings are shown.
        clock: Seconds.
    """

    def __init__(
        self,
        reference: DriftReference,
        observer: Observer,
        config: DriftConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reference, self._observer, self._config, self._metrics = reference, observer, config, metrics
        self._clock, self._gap_s = clock, config.block_s / config.block_texts
        self._texts, self._lock = metrics.counter(telemetry.DRIFT_TEXTS), threading.Lock()
        self._due, self._block, self._seen = -math.inf, list[Observation](), set[int]()

    def is_due(self) -> bool:
        """Whether the next text belongs into the block: one each `block_s / block_texts` seconds."""
        return self._clock() >= self._due

    def observe(self, text: str, document: Document, outputs: Sequence[Float32]) -> None:
        """Counts a text by the logits of its windows, and tests the block that it fills.

        Left out are texts whose request brought words or labels of its own, and those that the block holds: retries and probes would pass
        for many texts.
        """
        if hash(text) in self._seen or not self._observer.fits(document):
            return
        try:
            observation = self._observer.observe(text, document, outputs)
            with self._lock:
                self._due = self._clock() + self._gap_s
                self._block.append(observation)
                self._seen.add(hash(text))
                self._texts.add()
                if len(self._block) >= self._config.block_texts:
                    block = self._begin_block()
                    self._test(block)
        except Exception:  # noqa: BLE001 - the answer itself is in order
            _log.exception("drift is not watched any more: a text could not be observed")
            self._due = math.inf

    def close(self) -> None:
        """Takes back what it found, which says nothing of the version that answers now."""
        with self._lock:
            self._begin_block()
            self._due = math.inf
            self._show([Finding(statistic, 0, 1, 0) for statistic in STATISTICS])

    def _begin_block(self) -> list[Observation]:
        """Gives the block before."""
        block, self._block, self._seen = self._block, [], set()
        return block

    def _test(self, block: Sequence[Observation]) -> None:
        findings = find(self._reference, self._reference.count(block), self._config.alpha)
        self._show(findings)
        drifted = [f"{one.statistic} (distance {one.distance:.2f})" for one in findings if one.evidence >= 1]
        if drifted:
            _log.warning(
                "drift: %d texts are not like the %d of the bundle's %s split: %s",
                len(block), self._reference.num_texts, self._reference.split, ", ".join(drifted),
            )  # fmt: skip

    def _show(self, findings: Sequence[Finding]) -> None:
        for one in findings:
            self._metrics.set(telemetry.DRIFT_DISTANCE, one.distance, statistic=one.statistic)
            self._metrics.set(telemetry.DRIFT_EVIDENCE, one.evidence, statistic=one.statistic)


def open_watch(bundle: Bundle, config: DriftConfig, metrics: Metrics) -> DriftWatch | None:
    """The watch over what a bundle answers; None if it is not wanted, or the bundle recorded no distributions.

    Raises:
        BundleError: What it recorded cannot be read.
    """
    if not config.watch:
        return None
    if bundle.drift_reference is None:
        _log.info(
            "drift is not watched: %s has no distributions to compare with; compress the agent again", bundle.path
        )
        return None
    return DriftWatch(bundle.drift_reference, Observer(bundle.task, bundle.encoder), config, metrics)
