"""The likelihood of rewards, beside enumeration of all answers of a tiny problem, and the weights of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from agent.config.base import from_mapping
from agent.errors import ConfigError
from training.config import TrainingConfig
from training.objectives import CrossEntropy, Objective, RewardLikelihood
from training.objectives.reward_likelihood import shift_weights
from training.objectives.window_facts import WindowFacts

CPU = torch.device("cpu")
# Three texts, four labels: probabilities of what was tried, and of what is right.
MU = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25], [0.02, 0.9, 0.04, 0.04]])
TRUTH = torch.tensor([[0.1, 0.6, 0.2, 0.1], [0.4, 0.1, 0.3, 0.2], [0.25, 0.25, 0.1, 0.4]])
TEXTS, LABELS = MU.shape


def facts(rewards, propensities=None):
    propensities = np.full(len(rewards), 0.5, np.float32) if propensities is None else propensities
    logged = np.stack([propensities, np.asarray(rewards, np.float32)], axis=1)
    return WindowFacts(np.arange(len(logged), dtype=np.uint64), logged, float(np.nanmean(rewards)))


EXACT = {"label_shift": 0, "false_rewards": 0}


def expected_loss(logits, objective, turned=0.0):
    """Of every text, over answers as they are tried and rewards as they are told, a part of them turned around."""
    loss = objective.bind([1] * LABELS, CPU)
    total = torch.zeros(())
    for text in range(TEXTS):
        for answer in range(LABELS):
            for reward in (1.0, 0.0):
                right = turned + (1 - 2 * turned) * TRUTH[text, answer]
                chance = right if reward else 1 - right
                value = loss(logits[[text]], torch.tensor([answer]), facts([reward]))
                total = total + MU[text, answer] * chance * value
    return total


@pytest.mark.parametrize("false_rewards", [0, 0.2])
def test_it_is_least_where_the_model_is_right_whatever_was_tried(false_rewards):
    objective = RewardLikelihood(label_shift=0, false_rewards=false_rewards)
    logits = TRUTH.log().requires_grad_()
    expected_loss(logits, objective, false_rewards).backward()
    assert logits.grad.abs().max() < 1e-6
    other = (TRUTH.log() + torch.tensor([0.3, 0.0, 0.0, 0.0])).requires_grad_()
    expected_loss(other, objective, false_rewards).backward()
    assert other.grad.abs().max() > 0.003


def test_a_single_reward_that_contradicts_the_model_teaches_the_less_the_more_may_be_false():
    def slope(false_rewards):
        logits = torch.tensor([[6.0, 0.0]], requires_grad=True)
        loss = RewardLikelihood(false_rewards=false_rewards).bind([1, 1], CPU)
        loss(logits, torch.tensor([1]), facts([1.0])).backward()
        return logits.grad.abs().max().item()

    assert slope(0) > 0.99
    assert slope(0.01) < 0.3
    assert slope(0.2) < 0.02


@pytest.mark.parametrize("reward", [0.0, 0.25, 1.0])
def test_a_reward_between_right_and_wrong_counts_as_both_in_parts(reward):
    logits = torch.tensor([[0.3, -0.2, 1.0, 0.1]])
    probability = logits.softmax(-1)[0, 2].item()
    found = RewardLikelihood(**EXACT).bind([1] * LABELS, CPU)(logits, torch.tensor([2]), facts([reward])).item()
    assert found == pytest.approx(-reward * np.log(probability) - (1 - reward) * np.log(1 - probability), rel=1e-5)


def test_a_right_answer_teaches_what_a_label_teaches_and_propensities_nothing():
    logits, targets = torch.randn(3, LABELS, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 3, 0])
    loss = RewardLikelihood(**EXACT).bind([1] * LABELS, CPU)
    labelled = CrossEntropy().bind([1] * LABELS, CPU)(logits, targets)
    for propensities in (None, np.array([0.1, 0.9, 1e-30], np.float32)):
        assert loss(logits, targets, facts([1.0] * 3, propensities)).item() == pytest.approx(labelled.item(), rel=1e-6)


def test_an_answer_that_the_model_is_sure_of_and_that_is_wrong_has_a_finite_loss():
    logits = torch.tensor([[60.0, 0.0]], requires_grad=True)
    value = RewardLikelihood(**EXACT).bind([1, 1], CPU)(logits, torch.tensor([0]), facts([0.0]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_labels_beside_decisions_are_taught_by_cross_entropy_and_minus_100_by_nothing():
    logits, targets = torch.randn(4, LABELS), torch.tensor([1, 3, 2, -100])
    told = facts([np.nan, 1.0, np.nan, 1.0])
    loss = RewardLikelihood(class_weights="sqrt", label_shift=0).bind([4, 3, 2, 1], CPU, rewarded=[0, 0, 0, 9])
    labelled = CrossEntropy(class_weights="sqrt").bind([4, 3, 2, 1], CPU)(logits[[0, 2]], targets[[0, 2]])
    decided = loss(logits[[1]], targets[[1]], facts([1.0]))
    assert loss(logits, targets, told).item() == pytest.approx((labelled + decided).item(), rel=1e-5)
    alone = WindowFacts(told.keys, np.full((4, 2), np.nan, np.float32), float("nan"))
    assert loss(logits, targets, alone).item() == loss(logits, targets).item()  # as in a dry run


# --- the weights of classes


def test_classes_get_back_the_shares_that_they_have_among_the_labels():
    labels, rewarded = [99, 99, 99, 99], [300.0, 100.0, 0.0, 0.0]
    weights, average = shift_weights(labels, rewarded, 1)
    both = np.add(labels, 1) + rewarded
    assert weights * both == pytest.approx(np.full(4, 200))  # alike again, and the sum is that of before
    assert average == pytest.approx((weights * rewarded).sum() / 400, rel=1e-5)
    half, _ = shift_weights(labels, rewarded, 0.5)
    assert half / half[2] == pytest.approx((weights / weights[2]) ** 0.5)
    assert (half * both).sum() == pytest.approx(both.sum(), rel=1e-5)
    for power, given in ((0, rewarded), (1, [0.0] * 4), (1, [10.0] * 4)):
        assert shift_weights(labels, given, power)[0] == pytest.approx(np.ones(4), rel=1e-5)


def test_a_class_without_labels_still_weighs_something():
    weights, average = shift_weights([0, 50], [20.0, 20.0], 1)
    assert 0 < weights[0] < weights[1]
    assert average == pytest.approx(weights.mean(), rel=1e-5)
    assert shift_weights([0, 0], [0.0, 0.0], 1)[1] == 1


def test_labels_right_and_wrong_answers_weigh_what_their_classes_say():
    counts, rewarded = [9, 9, 9, 9], [90.0, 10.0, 0.0, 0.0]
    weights, average = shift_weights(counts, rewarded, 0.5)
    loss = RewardLikelihood().bind(counts, CPU, rewarded=rewarded)
    plain = RewardLikelihood(label_shift=0).bind(counts, CPU, rewarded=rewarded)
    logits = torch.randn(1, LABELS, generator=torch.Generator().manual_seed(1))
    for label in range(LABELS):
        target = torch.tensor([label])
        for told, factor in ((facts([1.0]), weights[label]), (facts([0.0]), average), (None, weights[label])):
            assert loss(logits, target, told).item() == pytest.approx(
                factor * plain(logits, target, told).item(), rel=1e-5
            )


@pytest.mark.parametrize("key", ["label_shift=-0.1", "label_shift=1.5", "false_rewards=0.5", "false_rewards=-0.1"])
def test_what_makes_no_sense_is_refused(key):
    name, value = key.split("=")
    with pytest.raises(ValidationError, match=name):
        TypeAdapter(Objective).validate_python({"kind": "reward_likelihood", name: value})


@pytest.mark.parametrize("task", ["token_classification", "multi_label_classification", "question_answering"])
def test_tasks_that_answer_more_than_one_label_are_refused_by_name(task):
    with pytest.raises(ConfigError, match=rf"reward_likelihood: task.kind={task} does not answer one label"):
        from_mapping(TrainingConfig, {"task": {"kind": task}, "objective": {"kind": "reward_likelihood"}})
