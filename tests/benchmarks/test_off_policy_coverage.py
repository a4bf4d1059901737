"""The benchmark of intervals: what it measures is right on a small problem, and its result on real data holds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agent.decisions.exploration import ExploreConfig
from benchmarks.feedback_loop.off_policy_coverage import (
    AIM,
    RESULT,
    WAYS,
    CoverageConfig,
    Population,
    measured,
    simulated,
)


@pytest.fixture(scope="module")
def population() -> Population:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 400)
    sure = np.eye(3)[gold]
    served, judged = (share * sure + (1 - share) * rng.dirichlet(np.ones(3), 400) for share in (0.3, 0.5))
    return Population(served, judged, gold)


def test_a_log_is_what_the_served_classifier_would_have_answered(population: Population) -> None:
    explore = ExploreConfig(epsilon=0.5)
    log = simulated(population, explore, 20_000, np.random.default_rng(1))
    assert log.rewards.mean() == pytest.approx(population.values(explore)["logged"], abs=0.015)
    assert set(np.round(log.propensities, 6)) == {round(0.5 + 0.5 / 3, 6), round(0.5 / 3, 6)}
    assert (log.propensities > 0.5).mean() == pytest.approx(0.5 + 0.5 / 3, abs=0.015)
    assert (simulated(population, ExploreConfig(), 300, np.random.default_rng(1)).propensities == 1).all()


def test_coverage_counts_intervals_that_hold_the_truth(population: Population) -> None:
    config = CoverageConfig(data=(), replications=12, decisions=400)
    row = measured(population, ExploreConfig(temperature=1), config)
    assert row["refused"] == 0
    assert all(0.75 <= told["coverage"] <= 1 for told in row["estimators"].values())
    wrong = population._replace(gold=(population.gold + 1) % 3)
    assert row["truth"]["judged"] - wrong.values(ExploreConfig())["judged"] > 0.3
    other = population._replace(judged=np.roll(population.judged, 1, axis=1))
    assert measured(other, ExploreConfig(), config)["refused"] == 12


def test_on_real_data_intervals_cover_as_often_as_was_aimed_at() -> None:
    result = json.loads(RESULT.read_text())
    assert result["config"]["replications"] == 500
    assert {row["data"] for row in result["rows"]} == {"cls_banking77", "cls_sst2"}
    for row in result["rows"]:
        if WAYS[row["way"]].kind == "greedy":
            assert row["refused"] == 500
        elif row["refused"] < 450:  # of a log that is nearly always refused, the rest tells little
            assert min(told["coverage"] for told in row["estimators"].values()) >= AIM, row
