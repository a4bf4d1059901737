"""Shapley values of words: exact for few words, else sampled by pairs of opposite permutations, with intervals.

A word's effect on a decision is the change of the decision's probability when the word is shown beside the others, averaged
over the orders in which words can be shown (Shapley 1953); effects sum to the probability of the whole text minus that of
the text with every word hidden. Sampling: Castro et al. 2009, with antithetic pairs as in Mitchell et al. 2022 (arXiv
2104.12199). A pair is one observation: Student's t over the pairs gives the interval.

A set of hidden words is an integer whose bit i says whether word i is hidden.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

LEAST_PAIRS = 3
_MOST_PAIRS = 200
# Two-sided 95% quantiles of Student's t with 1 to 30 degrees of freedom (scipy.stats.t.ppf(0.975, df)).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Plan(NamedTuple):
    """Which sets of hidden words are to be computed.

    Attributes:
        num_words: Of the text.
        orders: The first permutation of each pair, in which words are shown; none where all sets are computed.
        hidden: The sets, each once; that of no word and that of all are among them.
    """

    num_words: int
    orders: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...]


class Effects(NamedTuple):
    """Shapley values of each word for each claim.

    Attributes:
        values: float64 [claims, words].
        margins: float64 [claims, words], half of each 95% interval; 0 where all sets were computed.
    """

    values: Float64
    margins: Float64


def most_words(num_sets: int) -> int:
    """For how many words that many sets are enough: all sets, or none, all and single words and the least number of pairs."""
    sampled = (num_sets + 2 * LEAST_PAIRS - 2) // (1 + 2 * LEAST_PAIRS)
    return max(1, num_sets.bit_length() - 1, sampled)


def plan_sets(num_words: int, num_sets: int, seed: int) -> Plan:
    """Plans the sets of hidden words for a number of words; about as many sets as are allowed, where they are of use.

    Args:
        num_words: At most `most_words(num_sets)`, or few enough for all sets.
        num_sets: How many may be computed.
        seed: Draws the permutations.
    """
    if 2**num_words <= num_sets:
        return Plan(num_words, (), tuple(range(2**num_words)))
    everything, draw = 2**num_words - 1, random.Random(seed)
    hidden = dict.fromkeys((0, everything, *(1 << word for word in range(num_words))))
    orders: list[tuple[int, ...]] = []
    while len(orders) < _MOST_PAIRS:
        order = tuple(draw.sample(range(num_words), num_words))
        further = dict.fromkeys(_prefixes(order) + _prefixes(order[::-1]))
        if len(orders) >= LEAST_PAIRS and len(hidden | further) > num_sets:
            break
        hidden |= further
        orders.append(order)
    return Plan(num_words, tuple(orders), tuple(hidden))


def effects(plan: Plan, values: Mapping[int, Float64]) -> Effects:
    """Computes the effects.

    Args:
        plan: As made by `plan_sets`.
        values: The probability of each claim, float64 [claims], for every set of the plan.
    """
    if not plan.orders:
        exact = _exact(plan.num_words, np.array([values[hidden] for hidden in range(2**plan.num_words)]))
        return Effects(exact, np.zeros_like(exact))
    observed = np.array([(_marginals(o, values) + _marginals(o[::-1], values)) / 2 for o in plan.orders])
    num_pairs = len(observed)
    spread = observed.std(axis=0, ddof=1) / math.sqrt(num_pairs)
    return Effects(observed.mean(axis=0), _t95(num_pairs - 1) * spread)


def _prefixes(order: tuple[int, ...]) -> list[int]:
    """The hidden words after none, one, two ... of an order are shown."""
    hidden = 2 ** len(order) - 1
    found = [hidden]
    for word in order:
        hidden ^= 1 << word
        found.append(hidden)
    return found


def _marginals(order: tuple[int, ...], values: Mapping[int, Float64]) -> Float64:
    """What each word adds when it is shown in this order: float64 [claims, words]."""
    steps = np.diff(np.array([values[hidden] for hidden in _prefixes(order)]), axis=0)
    marginals = np.empty_like(steps)
    marginals[list(order)] = steps
    return marginals.T


def _exact(num_words: int, values: Float64) -> Float64:
    """Shapley values by their definition.

    Args:
        num_words: Of the text.
        values: float64 [sets, claims], by the number of the hidden set.
    """
    hidden = np.arange(2**num_words)
    num_shown = num_words - np.array([int(one).bit_count() for one in hidden])
    weights = np.array([1 / (num_words * math.comb(num_words - 1, size)) for size in range(num_words)])
    found = np.zeros((values.shape[1], num_words))
    for word in range(num_words):
        without = hidden[hidden & (1 << word) != 0]
        found[:, word] = weights[num_shown[without]] @ (values[without ^ (1 << word)] - values[without])
    return found


def _t95(degrees: int) -> float:
    return _T95[degrees - 1] if degrees <= len(_T95) else 1.96 + 2.4 / degrees
