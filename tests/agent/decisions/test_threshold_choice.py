"""The choice of thresholds: against enumeration, with costs known by hand, and intervals that hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from agent.decisions.decision_costs import COSTS, AbstentionCosts, DetectionCosts, Judged, LabelCosts
from agent.decisions.off_policy import Bootstrap
from agent.decisions.threshold_choice import NEVER, Options, choose_thresholds, cross_fitted
from agent.errors import ConfigError
from agent.tasks import KINDS, MultiLabelClassification, TextClassification, TokenClassification
from agent.tasks.governed.governed_tasks import GOVERNED

CLASSES = TextClassification(labels=("a", "b", "c"))


def classified(rows: list[tuple[str, float, str]]) -> tuple[list[list[dict[str, Any]]], list[Judged]]:
    """Answers and what is right, from the answered label, its score and the right label."""
    answers = [[{"label": label, "score": score}] for label, score, _ in rows]
    examples = [CLASSES.read_record({"text": "x", "label": right}, "") for _, _, right in rows]
    return answers, [Judged(example) for example in examples]


def drawn(rng: np.random.Generator, number: int) -> list[tuple[str, float, str]]:
    """Answers whose score is the chance that they are right, of few distinct scores."""
    found = []
    for label in rng.choice(CLASSES.labels, number).tolist():
        score = float(rng.integers(1, 16)) / 16
        right = label if rng.random() < score else str(rng.choice([one for one in CLASSES.labels if one != label]))
        found.append((label, score, right))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_thresholds_of_all_that_there_are_cost_less(seed: int) -> None:
    costs = AbstentionCosts(abstain=0.25, wrong=1, answered={"a": 2}, pairs={"b": {"c": 0.5}})  # sums are exact
    options = costs.options(CLASSES, *classified(drawn(np.random.default_rng(seed), 40)))
    chosen = choose_thresholds(options, costs.prices(CLASSES.labels), shrinkage=0)
    cuts = [0.0, *((np.arange(1, 15) + 0.5) / 16).tolist(), NEVER]
    every = itertools.product(cuts, repeat=3)
    least = min(float(options.costs(options.reaching(np.array(one))).sum()) for one in every)
    assert float(options.costs(options.reaching(chosen)).sum()) == least


def test_what_is_borrowed_from_other_labels_is_priced_as_the_label_is() -> None:
    """Label a has no decision of its own; those of b are right from 0.6 on, and only half of them above 0.8."""
    rows = [("b", 0.9, "b"), ("b", 0.85, "c"), ("b", 0.7, "b"), ("b", 0.65, "b"), ("b", 0.3, "c"), ("b", 0.2, "a")]
    answers, known = classified(rows)
    for price, threshold in ((1.0, 0.475), (2.0, NEVER)):  # 1 mistake and 3 hits, at 0.5 for each that is withheld
        costs = AbstentionCosts(abstain=0.5, answered={"a": price})
        options = costs.options(CLASSES, answers, known)
        found = choose_thresholds(options, costs.prices(CLASSES.labels), shrinkage=20)
        assert found[0] == (pytest.approx(threshold) if price == 1 else pytest.approx((0.9 + 0.85) / 2))
        assert found[1] == pytest.approx(0.475)


def test_costs_of_single_mistakes_and_of_unknown_labels() -> None:
    costs = AbstentionCosts(abstain=0.5, wrong=1, answered={"a": 3}, pairs={"b": {"a": 8}})
    rows = [("a", 0.9, "a"), ("a", 0.9, "b"), ("a", 0.9, "c"), ("b", 0.9, "new")]
    answers, known = classified(rows)
    options = costs.options(CLASSES, [*answers, answers[0]], [*known, Judged(None, wrong=0.75, weight=2)])
    assert options.said.tolist() == [0, 8, 3, 1, 0.75 * 2 * 3]
    assert options.unsaid.tolist() == [0.5] * 5
    assert costs.dearest(CLASSES.labels) == 8


def test_labels_and_entities_cost_false_alarms_and_misses() -> None:
    costs = DetectionCosts(false_alarm=1, missed=2, labels={"PER": LabelCosts(missed=5)})
    tagger = TokenClassification(labels=("LOC", "PER"))
    spans = [{"start": 0, "end": 4, "label": "PER"}, {"start": 13, "end": 17, "label": "LOC"}]
    example = tagger.read_record({"text": "Anna went to Oslo", "spans": spans}, "")
    answer = [
        {"entity_group": "PER", "score": 0.9, "start": 0, "end": 4, "word": "Anna"},
        {"entity_group": "PER", "score": 0.6, "start": 13, "end": 17, "word": "Oslo"},
    ]
    options = costs.options(tagger, [answer, []], [Judged(example), Judged(example)])
    assert (options.said.tolist(), options.unsaid.tolist()) == ([0, 1], [5, 0])
    assert options.fixed.tolist() == [2, 7]  # Oslo as a place is never found; in the second text nothing is
    assert options.costs(options.plain).tolist() == [3, 7]
    labeller = MultiLabelClassification(labels=("x", "y"), thresholds=(0.3, 0.5))
    found = [{"label": "x", "score": 0.4, "threshold": 0.3}, {"label": "y", "score": 0.4, "threshold": 0.5}]
    both = labeller.read_record({"text": "t", "labels": ["y"]}, "")
    options = DetectionCosts(missed=2).options(labeller, [found], [Judged(both)])
    assert (options.said.tolist(), options.unsaid.tolist()) == ([1, 0], [0, 2])
    assert options.costs(options.plain).tolist() == [3]  # x is said and wrong, y is right and not said


def test_nothing_to_say_is_no_obstacle() -> None:
    tagger = TokenClassification(labels=("LOC", "PER"))
    example = tagger.read_record({"text": "nobody", "spans": []}, "")
    costs = DetectionCosts()
    options = costs.options(tagger, [[], []], [Judged(example)] * 2)
    bootstrap = Bootstrap(2, resamples=200)
    chosen = cross_fitted(options, costs.prices(tagger.labels), np.arange(2), shrinkage=20, bootstrap=bootstrap)
    assert chosen.thresholds.tolist() == [0, 0]
    assert chosen.estimates["policy"].value == 0


def test_intervals_of_what_the_policy_costs_hold() -> None:
    """300 sets of evidence; the truth is what the thresholds chosen on all of it cost on the population."""
    rng = np.random.default_rng(0)
    costs = AbstentionCosts(abstain=0.25, answered={"a": 2})
    prices = costs.prices(CLASSES.labels)
    population = _options(costs, rng, 100_000)
    held = {"policy": 0, "saving": 0}
    for _ in range(300):
        options = _options(costs, rng, 400)
        bootstrap = Bootstrap(400, resamples=400, seed=int(rng.integers(1 << 30)))
        found = cross_fitted(options, prices, np.arange(400) % 10, shrinkage=20, bootstrap=bootstrap)
        cost = float(population.costs(population.reaching(found.thresholds)).mean())
        plain = float(population.costs(population.plain).mean())
        for name, truth in (("policy", cost), ("saving", plain - cost)):
            held[name] += found.estimates[name].low <= truth <= found.estimates[name].high
    assert min(held.values()) >= 0.93 * 300, held


def _options(costs: AbstentionCosts, rng: np.random.Generator, number: int) -> Options:
    """Options of a classifier that is too sure of itself: it is right with a chance of its score to the power of 1.5."""
    labels, scores = rng.integers(0, 3, number), rng.beta(4, 1.5, number)
    wrong = (rng.random(number) > scores**1.5).astype(np.float64)
    prices, ones = costs.prices(CLASSES.labels), np.ones(number)
    return Options(
        texts=np.arange(number), labels=labels, scores=scores, said=wrong * prices.wrong[labels],
        unsaid=ones * costs.abstain, wrong=wrong, lost=ones, plain=ones > 0, fixed=0 * ones,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "named"),
    [
        (AbstentionCosts(abstain=0, answered={"z": 1}), "answered"),
        (AbstentionCosts(abstain=0, pairs={"a": {"z": 1}}), "pairs"),
        (DetectionCosts(labels={"z": LabelCosts()}), "labels"),
    ],
)
def test_labels_that_the_agent_does_not_have_are_named(costs: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=f"costs: {named} names the label 'z'"):
        costs.check(("a", "b"))


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf")])
def test_a_cost_is_a_number_from_0_on(cost: float) -> None:
    kinds: list[Callable[..., Any]] = [AbstentionCosts, LabelCosts]
    for kind, key in zip(kinds, ("abstain", "missed"), strict=True):
        with pytest.raises(ValidationError):
            kind(**{key: cost})


def test_every_task_that_can_be_governed_has_costs() -> None:
    assert set(COSTS) == set(GOVERNED) <= set(KINDS)
