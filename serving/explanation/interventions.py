"""Which interventions explain the decisions on one text: effects of words, sets of words that flip a decision, faithfulness.

A generator: it yields the sets of hidden words that are to be computed next and is sent what the agent says then; whoever
drives it decides where that is computed. Comprehensiveness and sufficiency are those of DeYoung et al. 2020 (ERASER, arXiv
1911.03429) for importance scores: means over the most important 0, 1, 5, 10, 20 and 50% of the words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agent.tasks.base import Verdict
from serving.explanation.shapley_values import Effects, Float64, effects, plan_sets

Verdicts = Sequence[Verdict]
"""What the agent says of each claim."""

Asking = Generator[list[int], Mapping[int, Verdicts], None]
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
_RATIONALES = 2 * len(BINS)  # interventions for the faithfulness of one claim, at most
_SAMPLED, _LEAST_SAMPLED = 0.7, 0.3  # of the interventions go into effects: for one claim, and for many


class Flip(NamedTuple):
    """A set of hidden words with which a claim is decided otherwise, and its probability then."""

    hidden: int
    probability: float


class Explained(NamedTuple):
    """How a claim depends on the words.

    Attributes:
        stands: What the agent says of the claim about the whole text.
        baseline: The claim's probability with all words hidden.
        effects, margins: float64 [words], Shapley values and half of their intervals.
        alone: float64 [words], how much the probability falls when this word alone is hidden.
        comprehensiveness, sufficiency: How much it falls without the most important words, and with them alone.
        flip: The smallest found that decides it otherwise; None if none was found.
    """

    stands: Verdict
    baseline: float
    effects: Float64
    margins: Float64
    alone: Float64
    comprehensiveness: float
    sufficiency: float
    flip: Flip | None


def most_claims(num_interventions: int) -> int:
    """How many claims that many interventions can explain."""
    return max(1, int((1 - _LEAST_SAMPLED) / _RATIONALES * num_interventions))


def num_sampled(num_interventions: int, num_claims: int) -> int:
    """How many of the interventions go into effects; the rest measures faithfulness and looks for what flips decisions."""
    rest = _RATIONALES * (num_claims - 1)
    return max(int(_LEAST_SAMPLED * num_interventions), int(_SAMPLED * num_interventions) - rest)


class Study:
    """The interventions on one text.

    Args:
        num_words: That can be hidden, at least 1.
        num_claims: That are to be explained.
        num_interventions: How many sets of hidden words may be computed.
        seed: Of the sampling.
        sendable: Whether what a set leaves can be asked about; flips are only sought among those.
    """

    def __init__(
        self, num_words: int, num_claims: int, *, num_interventions: int, seed: int, sendable: Callable[[int], bool]
    ) -> None:
        self._num_words, self._num_claims, self._seed, self._sendable = num_words, num_claims, seed, sendable
        self._most = num_interventions
        self.verdicts: dict[int, Verdicts] = {}
        self.exact = False

    @property
    def num_computed(self) -> int:
        """Interventions so far; the text as it is counts as one."""
        return len(self.verdicts)

    def explain(self) -> Generator[list[int], Mapping[int, Verdicts], list[Explained]]:
        """Explains every claim; yields sets of hidden words, is sent what the agent says of each."""
        plan = plan_sets(self._num_words, num_sampled(self._most, self._num_claims), self._seed)
        self.exact = not plan.orders
        yield from self._ask(plan.hidden)
        values = {hidden: np.array([one.probability for one in self.verdicts[hidden]]) for hidden in plan.hidden}
        found = effects(plan, values)
        ranked = [self._ranking(found.values[claim], holds=True) for claim in range(self._num_claims)]
        yield from self._ask(hidden for ranking in ranked for hidden in self._rationales(ranking))
        explained = []
        for claim in range(self._num_claims):
            allowed = self._left // (self._num_claims - claim)
            yield from self._search(claim, found.values[claim], self.num_computed + allowed)
            explained.append(self._explained(claim, found, ranked[claim]))
        return explained

    @property
    def _left(self) -> int:
        return max(0, self._most - self.num_computed)

    def _ask(self, sets: Iterable[int]) -> Asking:
        """Has sets computed that were not computed before."""
        new = [hidden for hidden in dict.fromkeys(sets) if hidden not in self.verdicts]
        if new:
            self.verdicts.update((yield new))

    def _ranking(self, values: Float64, *, holds: bool) -> list[int]:
        """Words from what supports the decision most to what opposes it most."""
        order: list[int] = np.argsort(-values if holds else values, kind="stable").tolist()
        return order

    def _rationales(self, ranking: Sequence[int]) -> list[int]:
        """The text without the most important words, then with them alone, for each bin."""
        everything = 2**self._num_words - 1
        sets = [_set_of(ranking[: math.ceil(part * len(ranking))]) for part in BINS]
        return [*sets, *(everything ^ one for one in sets)]

    def _search(self, claim: int, values: Float64, limit: int) -> Asking:
        """Looks for a small set that flips a claim: greedily by effect, then leaves out what is not needed."""
        holds = self.verdicts[0][claim].holds
        support = [
            word for word in self._ranking(values, holds=holds) if (values[word] if holds else -values[word]) > 0
        ]
        prefixes = [_set_of(support[:size]) for size in range(1, len(support) + 1)]
        room = max(0, limit - self.num_computed)
        yield from self._ask(self._affordable(prefixes[: room // 2] + prefixes[-1:], room))
        while (found := self.flip_of(claim)) is not None and found.hidden.bit_count() > 1:
            smaller = [found.hidden ^ (1 << word) for word in support[::-1] if found.hidden >> word & 1]
            others = [word for word in range(self._num_words) if found.hidden >> word & 1 and word not in support]
            smaller += [found.hidden ^ (1 << word) for word in others]
            room = max(0, limit - self.num_computed)
            yield from self._ask(self._affordable([one for one in smaller if one not in self.verdicts], room))
            if self.flip_of(claim) == found:
                return

    def _affordable(self, sets: Sequence[int], room: int) -> list[int]:
        new = [hidden for hidden in dict.fromkeys(sets) if hidden not in self.verdicts]
        return new[:room]

    def flip_of(self, claim: int) -> Flip | None:
        """The smallest of the computed sets that decides a claim otherwise; among equals the one that changes its probability most."""
        before = self.verdicts[0][claim]
        flips = [
            (hidden.bit_count(), said[claim].probability if before.holds else -said[claim].probability, hidden)
            for hidden, said in self.verdicts.items()
            if said[claim].holds != before.holds
        ]
        hidden = next((hidden for *_, hidden in sorted(flips) if self._sendable(hidden)), None)
        return None if hidden is None else Flip(hidden, self.verdicts[hidden][claim].probability)

    def _explained(self, claim: int, found: Effects, ranking: Sequence[int]) -> Explained:
        stands, everything = self.verdicts[0][claim], 2**self._num_words - 1
        singles = [self.verdicts[1 << word][claim].probability for word in range(self._num_words)]
        baseline = self.verdicts[everything][claim].probability
        sets = self._rationales(ranking)
        without, only = (
            [self.verdicts[hidden][claim].probability for hidden in part]
            for part in (sets[: len(BINS)], sets[len(BINS) :])
        )
        return Explained(
            stands=stands,
            baseline=baseline,
            effects=found.values[claim],
            margins=found.margins[claim],
            alone=stands.probability - np.array(singles),
            comprehensiveness=sum(stands.probability - one for one in without) / (len(BINS) + 1),
            sufficiency=sum(stands.probability - one for one in (baseline, *only)) / (len(BINS) + 1),
            flip=self.flip_of(claim),
        )


def _set_of(words: Iterable[int]) -> int:
    return sum(1 << word for word in words)
