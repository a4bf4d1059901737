"""Drawn answers: the probability that is told is the one by which they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from agent.config.base import load
from agent.decisions.exploration import ExploreConfig, sample
from agent.errors import ConfigError

ANSWER = [{"label": "good", "score": 0.5}, {"label": "fair", "score": 0.3}, {"label": "bad", "score": 0.2}]


@pytest.mark.parametrize(
    ("config", "propensities"),
    [
        (ExploreConfig(), [1, 0, 0]),
        (ExploreConfig(epsilon=0.3), [0.8, 0.1, 0.1]),
        (ExploreConfig(epsilon=1), [1 / 3] * 3),
        (ExploreConfig(temperature=1), [0.5, 0.3, 0.2]),
        (ExploreConfig(temperature=0.5), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]),
    ],
)
def test_the_propensity_is_the_part_of_all_draws_that_gives_the_answer(
    config: ExploreConfig, propensities: list[float]
) -> None:
    draws = (np.arange(10_000) + 0.5) / 10_000
    drawn = [sample(ANSWER, config, draw, top_k=None) for draw in draws]
    for item, expected in zip(ANSWER, propensities, strict=True):
        of_it = [one for one in drawn if one.answer[0] == item]
        assert len(of_it) / 10_000 == pytest.approx(expected, abs=1e-4)
        assert all(one.propensity == pytest.approx(expected) for one in of_it)


def test_the_others_follow_by_score_and_as_many_as_are_wanted() -> None:
    drawn = sample(ANSWER, ExploreConfig(epsilon=1), 0.99, top_k=None)
    assert [item["label"] for item in drawn.answer] == ["bad", "good", "fair"]
    assert sample(ANSWER, ExploreConfig(epsilon=1), 0.99, top_k=2).answer == drawn.answer[:2]


@pytest.mark.parametrize("config", [ExploreConfig(temperature=1), ExploreConfig(epsilon=0.5), ExploreConfig()])
def test_draws_at_the_edges_and_labels_without_any_probability_are_safe(config: ExploreConfig) -> None:
    answer = [{"label": "good", "score": 1.0}, {"label": "bad", "score": 0.0}]
    for draw in (0.0, np.nextafter(1.0, 0.0), 1.0):
        drawn = sample(answer, config, draw, top_k=None)
        assert drawn.propensity > 0
        assert drawn.chosen == config.kind
    assert np.isfinite(config.propensities([[1.0, 0.0], [0.0, 1.0]])).all()


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="two ways to explore"):
        load(ExploreConfig, ["epsilon=0.1", "temperature=1"])
