"""Distributions of an agent's held-out texts and of its answers to them: `drift_reference.json` of a bundle.

Each answered text is one observation of five statistics. Compression records them for the dev split, from the graph that it publishes;
serving counts recent texts into the same bins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from agent.config.base import Config
from agent.drift.observer import NO_ITEM, Observation
from agent.errors import BundleError

FILE = "drift_reference.json"
STATISTICS = Observation._fields
_NUM_BINS = 10
_MAX_SETS = 200  # sets of labels with a bin of their own


class OrderedBins(Config):
    """Observations of a number. The first bin ends with the first edge, the last one begins after the last edge."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or sorted(set(self.edges)) != list(self.edges):
            raise ValueError("edges ascend, and there is one count more than edges")
        return self

    @classmethod
    def of(cls, values: Sequence[float], edges: Iterable[float] = ()) -> Self:
        """Bins that hold about a tenth of the values each, divided at given edges as well."""
        ordered = sorted(values)
        tenths = [ordered[(len(ordered) * number - 1) // _NUM_BINS] for number in range(1, _NUM_BINS)]
        bounds = sorted({*map(float, tenths), *edges})
        counts = Counter(bisect_left(bounds, value) for value in values)
        return cls(edges=tuple(bounds), counts=tuple(counts[place] for place in range(len(bounds) + 1)))

    def place(self, value: float) -> int:
        """The bin of a value."""
        return bisect_left(self.edges, value)


class SetBins(Config):
    """Observations of sets of labels, the frequent ones first; the last bin is for all other sets."""

    sets: tuple[tuple[str, ...], ...]
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.sets) + 1 or len(set(self.sets)) != len(self.sets):
            raise ValueError("sets are distinct, and there is one count more than sets")
        return self

    @classmethod
    def of(cls, values: Sequence[tuple[str, ...]]) -> Self:
        """A bin for each set that occurs."""
        frequent = Counter(values).most_common(_MAX_SETS)
        rest = len(values) - sum(count for _, count in frequent)
        return cls(sets=tuple(value for value, _ in frequent), counts=(*(count for _, count in frequent), rest))

    def place(self, value: tuple[str, ...]) -> int:
        """The bin of a set."""
        return self._places.get(value, len(self.sets))

    @cached_property
    def _places(self) -> dict[tuple[str, ...], int]:
        return {value: place for place, value in enumerate(self.sets)}


class DriftReference(Config):
    """What texts and answers were like when the agent was made: for each statistic how many texts lie in which bin."""

    split: str
    num_texts: int = Field(ge=1)
    length: OrderedBins
    unknown: OrderedBins
    labels: SetBins
    score: OrderedBins
    energy: OrderedBins

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if any(sum(counts) != self.num_texts or min(counts) < 0 for counts in self.counts):
            raise ValueError("the counts of each statistic sum to num_texts")
        return self

    @classmethod
    def of(cls, observations: Sequence[Observation], split: str) -> Self:
        """Bins of what was observed of a split; at least one text."""
        length, unknown, labels, score, energy = zip(*observations, strict=True)
        return cls(
            split=split,
            num_texts=len(observations),
            length=OrderedBins.of(length),
            unknown=OrderedBins.of(unknown, edges=(0.0,)),
            labels=SetBins.of(labels),
            score=OrderedBins.of(score, edges=(NO_ITEM,)),
            energy=OrderedBins.of(energy),
        )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Reads a file.

        Raises:
            BundleError: It cannot be read, or is none.
        """
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
            raise BundleError(f"{file} holds no distributions ({reason})", remedy="compress the agent again") from None

    @property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """Texts by bin, for each of `STATISTICS`."""
        return tuple(bins.counts for bins in self._bins)

    def places(self, observation: Observation) -> tuple[int, ...]:
        """The bins of an observation, one for each of `STATISTICS`."""
        return tuple(bins.place(value) for bins, value in zip(self._bins, observation, strict=True))

    def count(self, observations: Iterable[Observation]) -> list[list[int]]:
        """How many observations lie in each bin, for each of `STATISTICS`."""
        counts = [[0] * len(one) for one in self.counts]
        for observation in observations:
            for of_statistic, place in zip(counts, self.places(observation), strict=True):
                of_statistic[place] += 1
        return counts

    @cached_property
    def _bins(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in STATISTICS)
