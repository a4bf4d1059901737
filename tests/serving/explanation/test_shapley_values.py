"""Shapley values against their definition, and intervals against the exact values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from serving.explanation.shapley_values import LEAST_PAIRS, Plan, effects, most_words, plan_sets


def random_game(num_words: int, seed: int, claims: int = 2) -> dict[int, np.ndarray]:
    """Probabilities for every set of hidden words, with interactions."""
    draw = np.random.default_rng(seed)
    weights, pairs = draw.normal(size=(claims, num_words)), draw.normal(size=(claims, num_words, num_words))
    found = {}
    for hidden in range(2**num_words):
        shown = np.array([1.0 - (hidden >> word & 1) for word in range(num_words)])
        logit = weights @ shown + np.einsum("cij,i,j->c", pairs, shown, shown) / 2
        found[hidden] = 1 / (1 + np.exp(-logit))
    return found


def by_definition(num_words: int, values: dict[int, np.ndarray]) -> np.ndarray:
    """The mean over all orders in which words are shown."""
    total = np.zeros((len(values[0]), num_words))
    for order in itertools.permutations(range(num_words)):
        hidden = 2**num_words - 1
        for word in order:
            total[:, word] += values[hidden ^ (1 << word)] - values[hidden]
            hidden ^= 1 << word
    return total / math.factorial(num_words)


@pytest.mark.parametrize("num_words", [1, 2, 5])
def test_few_words_get_their_exact_values(num_words: int) -> None:
    values = random_game(num_words, num_words)
    plan = plan_sets(num_words, 32, seed=0)
    found = effects(plan, values)
    assert set(plan.hidden) == set(range(2**num_words))
    np.testing.assert_allclose(found.values, by_definition(num_words, values), atol=1e-12)
    assert not found.margins.any()


def test_sampled_effects_sum_to_what_all_words_do_together() -> None:
    values = random_game(9, 3)
    found = effects(plan_sets(9, 150, seed=1), values)
    np.testing.assert_allclose(found.values.sum(axis=1), values[0] - values[2**9 - 1], atol=1e-12)
    assert (found.margins > 0).all()


def test_intervals_hold_the_exact_values() -> None:
    """Of nine words with interactions in pairs, over 300 seeds; 95% is meant."""
    values = random_game(9, 5)
    exact = effects(Plan(9, (), tuple(range(2**9))), values).values
    inside = []
    for seed in range(300):
        found = effects(plan_sets(9, 200, seed=seed), values)
        inside.append(abs(found.values - exact) <= found.margins)
    assert 0.92 <= np.mean(inside) <= 0.99


def test_the_same_seed_plans_the_same_sets_and_another_one_others() -> None:
    assert plan_sets(12, 200, seed=4) == plan_sets(12, 200, seed=4)
    assert plan_sets(12, 200, seed=4) != plan_sets(12, 200, seed=5)


@pytest.mark.parametrize("num_sets", [4, 11, 16, 60, 350, 1_000])
def test_a_plan_keeps_to_its_number_of_sets(num_sets: int) -> None:
    for num_words in range(1, most_words(num_sets) + 1):
        plan = plan_sets(num_words, num_sets, seed=0)
        assert len(plan.hidden) == len(set(plan.hidden)) <= num_sets
        assert {0, 2**num_words - 1, *(1 << word for word in range(num_words))} <= set(plan.hidden)
        assert not plan.orders or len(plan.orders) >= LEAST_PAIRS
