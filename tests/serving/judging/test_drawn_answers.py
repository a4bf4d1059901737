"""Answers that are missing from a log by what was answered are seen; any others may be missing."""

from __future__ import annotations

import numpy as np
import pytest

from agent.decisions.exploration import ExploreConfig
from serving.judging.drawn_answers import Draws, find_draws

LABELS, NUMBER = 12, 1_000
WAYS = [ExploreConfig(temperature=0.5), ExploreConfig(temperature=1), ExploreConfig(temperature=3), ExploreConfig(epsilon=0.3)]  # fmt: skip


class Log:
    """Probabilities, answers that are drawn by a setting, their propensities; and which answers are right, as probable as the model says."""

    def __init__(self, explore: ExploreConfig, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.kind = explore.kind
        self.probabilities = rng.dirichlet(np.full(LABELS, 0.15), NUMBER)
        policy = explore.propensities(self.probabilities)
        self.answers, truth = (
            (rows.cumsum(axis=1) > rng.random((NUMBER, 1))).argmax(axis=1) for rows in (policy, self.probabilities)
        )
        self.propensities, self.right = policy[np.arange(NUMBER), self.answers], self.answers == truth

    def draws(self, kept: np.ndarray) -> Draws:
        found = find_draws(self.kind, self.probabilities[kept], self.answers[kept], self.propensities[kept])
        assert found
        return found


@pytest.mark.parametrize("explore", WAYS, ids=lambda way: f"{way.kind} {way.epsilon or way.temperature:g}")
def test_honest_logs_err_as_often_as_their_variance_says(explore: ExploreConfig) -> None:
    everything = np.full(NUMBER, True)
    scores = [Log(explore, seed).draws(everything).excess for seed in range(100)]
    assert 0.8 < np.std(scores) < 1.2
    assert abs(np.mean(scores)) < 0.4
    assert max(map(abs, scores)) < 4


@pytest.mark.parametrize("explore", WAYS, ids=lambda way: f"{way.kind} {way.epsilon or way.temperature:g}")
def test_losses_are_seen_that_hang_on_the_answer_and_no_others(explore: ExploreConfig) -> None:
    log = Log(explore, 0)
    certainty = log.probabilities.max(axis=1)
    hard = certainty < np.median(certainty)
    for kept in (np.random.default_rng(1).random(NUMBER) < 0.3, hard, ~hard):  # by chance, and by the text
        assert abs(log.draws(kept).excess) < 4
    assert log.draws(log.right).excess > 4
    assert log.draws(~log.right).excess < -4


def test_propensities_that_are_not_the_bundles_own_tell_nothing() -> None:
    log = Log(ExploreConfig(temperature=1), 0)
    others = np.random.default_rng(2).random(NUMBER)
    assert find_draws("temperature", log.probabilities, log.answers, others) is None
    assert find_draws("epsilon", log.probabilities, log.answers, others) is None


def test_what_cannot_vary_exceeds_nothing() -> None:
    assert Draws(40, 40.0, 40.0, 0.0).excess == 0
