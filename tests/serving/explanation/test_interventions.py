"""Sets of words that flip a decision, and faithfulness, on games whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from agent.tasks.base import Verdict
from serving.explanation.interventions import BINS, Explained, Study, most_claims, num_sampled
from serving.explanation.shapley_values import most_words

Game = Callable[[int], list[Verdict]]


def study(num_words: int, game: Game, *, claims: int = 1, budget: int = 400, seed: int = 0, sendable=lambda _: True):
    """Runs a study; the sets that were computed and what was found."""
    one = Study(num_words, claims, num_interventions=budget, seed=seed, sendable=sendable)
    one.verdicts[0] = game(0)
    asking = one.explain()
    wanted = next(asking)
    while True:
        assert 0 not in wanted
        try:
            wanted = asking.send({hidden: game(hidden) for hidden in wanted})
        except StopIteration as end:
            found: list[Explained] = end.value
            return one, found


def shows(*words: int) -> Callable[[int], bool]:
    return lambda hidden: not any(hidden >> word & 1 for word in words)


def verdict(holds: bool, sure: float = 0.9) -> Verdict:
    return Verdict(sure if holds else 1 - sure, holds)


def hidden_of(words: set[int]) -> int:
    return sum(1 << word for word in words)


@pytest.mark.parametrize("num_words", [3, 8, 20, 50])
def test_one_word_that_decides_is_the_only_cause_and_the_flip(num_words: int) -> None:
    word = num_words // 2
    _, (found,) = study(num_words, lambda hidden: [verdict(shows(word)(hidden))])
    assert found.flip is not None
    assert found.flip.hidden == 1 << word
    assert found.flip.probability == pytest.approx(0.1)
    np.testing.assert_allclose(found.effects, [0.8 * (place == word) for place in range(num_words)], atol=1e-12)
    np.testing.assert_allclose(found.alone, found.effects, atol=1e-12)


def test_of_two_words_that_each_suffice_both_have_to_go() -> None:
    """Hiding single words shows nothing here: only sets do."""
    _, (found,) = study(12, lambda hidden: [verdict(shows(2)(hidden) or shows(7)(hidden))])
    assert not found.alone.any()
    assert sorted(np.argsort(-found.effects)[:2].tolist()) == [2, 7]
    np.testing.assert_allclose(found.effects[[2, 7]], 0.4, atol=0.15)
    assert found.flip is not None
    assert found.flip.hidden == hidden_of({2, 7})


def test_a_flip_has_no_word_that_is_not_needed() -> None:
    """Three of five voters carry it, and one word counts a little without ever deciding."""

    def game(hidden: int) -> list[Verdict]:
        votes = sum(not hidden >> word & 1 for word in range(5))
        return [Verdict(0.15 * votes + 0.1 * shows(9)(hidden), votes >= 3)]

    _, (found,) = study(14, game)
    assert found.flip is not None
    assert found.flip.hidden.bit_count() == 3
    assert found.flip.hidden < 2**5


def test_a_label_that_is_not_given_is_flipped_by_what_speaks_against_it() -> None:
    _, (found,) = study(12, lambda hidden: [verdict(not shows(4)(hidden))])
    assert not found.stands.holds
    assert found.effects[4] == pytest.approx(-0.8)
    assert found.flip is not None
    assert found.flip.hidden == 1 << 4


def test_what_no_set_of_words_changes_has_no_flip() -> None:
    _, (found,) = study(10, lambda hidden: [Verdict(0.9 - 0.01 * hidden.bit_count(), True)])
    assert found.flip is None
    assert found.baseline == pytest.approx(0.8)


def test_flips_are_only_of_what_can_be_sent() -> None:
    _, (found,) = study(1, lambda hidden: [verdict(not hidden)], sendable=lambda hidden: hidden == 0)
    assert found.flip is None


def test_faithfulness_is_that_of_its_definition() -> None:
    weights = np.linspace(0.001, 0.05, 20)

    def probability(hidden: int) -> float:
        return sum(weight for word, weight in enumerate(weights) if not hidden >> word & 1)

    _, (found,) = study(20, lambda hidden: [Verdict(probability(hidden), True)])
    best = np.argsort(-weights)
    tops = [best[: math.ceil(part * 20)] for part in (0.0, *BINS)]
    whole = weights.sum()
    comprehensive = [whole - (whole - weights[top].sum()) for top in tops]
    sufficient = [whole - weights[top].sum() for top in tops]
    assert found.comprehensiveness == pytest.approx(np.mean(comprehensive))
    assert found.sufficiency == pytest.approx(np.mean(sufficient))


@pytest.mark.parametrize("budget", [16, 40, 100, 500])
def test_interventions_stay_within_their_number(budget: int) -> None:
    draw = np.random.default_rng(0)
    for claims in {1, most_claims(budget) // 2 + 1, most_claims(budget)}:
        num_words = most_words(num_sampled(budget, claims))
        weights = draw.normal(size=(claims, num_words))

        def game(hidden: int, weights: np.ndarray = weights, num_words: int = num_words) -> list[Verdict]:
            shown = np.array([1 - (hidden >> word & 1) for word in range(num_words)])
            sure = 1 / (1 + np.exp(-weights @ shown))
            return [Verdict(float(one), bool(one > 0.5)) for one in sure]

        one, found = study(num_words, game, claims=claims, budget=budget)
        assert one.num_computed <= budget
        assert len(found) == claims


def test_the_same_seed_gives_the_same_explanation() -> None:
    def game(hidden: int) -> list[Verdict]:
        return [verdict(hidden % 7 < 3, 0.6 + 0.01 * (hidden % 11))]

    same = [study(15, game, seed=3)[0].verdicts for _ in range(2)]
    assert same[0] == same[1]
    assert set(study(15, game, seed=4)[0].verdicts) != set(same[0])
