"""The policy gradient on logged decisions, beside enumeration of all answers of a tiny problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from agent.config.base import from_mapping
from agent.errors import ConfigError
from training.config import TrainingConfig
from training.objectives import CrossEntropy, Objective, PolicyGradient
from training.objectives.window_facts import WindowFacts, mean_reward

CPU = torch.device("cpu")
# Three texts, four labels: probabilities of logging and model, and rewards.
MU = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25], [0.02, 0.9, 0.04, 0.04]], dtype=torch.float64)
LOGITS = torch.tensor([[0.1, 1.2, -0.3, 0.4], [0.0, 0.5, -1.0, 0.2], [0.6, -0.2, 1.1, 0.0]], dtype=torch.float64)
REWARDS = torch.tensor([[0.9, 0.6, 1.0, 0.7], [0.8, 0.9, 0.3, 1.0], [1.0, 0.7, 0.9, 0.5]], dtype=torch.float64)
MEAN = float((MU * REWARDS).sum(1).mean())
TEXTS, LABELS = MU.shape


def facts(propensities, rewards, mean=MEAN):
    logged = np.stack([np.asarray(propensities, np.float32), np.asarray(rewards, np.float32)], axis=1)
    return WindowFacts(np.arange(len(logged), dtype=np.uint64), logged, mean)


def gradients(objective):
    """The gradient of the loss of each text with each answer: float64 [texts, answers, logits of the text]."""
    loss = objective.bind([1] * LABELS, CPU)
    found = torch.zeros(TEXTS, LABELS, LABELS, dtype=torch.float64)
    for text in range(TEXTS):
        for answer in range(LABELS):
            logits = LOGITS[[text]].clone().requires_grad_()
            told = facts([MU[text, answer]], [REWARDS[text, answer]])
            loss(logits, torch.tensor([answer]), told).backward()
            found[text, answer] = logits.grad[0]
    return found


def expected(found):
    """The mean over answers as they are logged: float64 [texts, logits]."""
    return (MU[..., None] * found).sum(1)


def exact(weights):
    """The gradient of -sum of weights times log pi, of weights float64 [texts, answers] that count as constants."""
    logits = LOGITS.clone().requires_grad_()
    (-weights * logits.log_softmax(-1)).sum().backward()
    return logits.grad


def value_gradient():
    logits = LOGITS.clone().requires_grad_()
    (logits.softmax(-1) * REWARDS).sum().backward()
    return logits.grad


@pytest.mark.parametrize("baseline", ["mean", "none", 0.5])
def test_without_a_clip_the_mean_gradient_is_that_of_the_value_whatever_the_baseline(baseline):
    found = expected(gradients(PolicyGradient(clip=1e6, baseline=baseline)))
    torch.testing.assert_close(found, -value_gradient(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_a_ratio_beyond_the_clip_counts_as_the_clip_and_still_teaches(clip):
    ratios = LOGITS.softmax(-1) / MU
    assert (ratios > clip).any()
    wanted = exact(MU * ratios.clamp_max(clip) * (REWARDS - MEAN))
    torch.testing.assert_close(expected(gradients(PolicyGradient(clip=clip))), wanted, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(wanted, -value_gradient(), atol=1e-3)  # the bias that clipping costs


def test_drawn_decisions_agree_with_the_value_within_their_standard_error():
    number = 20_000
    texts = torch.arange(TEXTS).repeat_interleave(number)
    answers = torch.cat([torch.multinomial(row, number, True, generator=torch.Generator().manual_seed(place))
                         for place, row in enumerate(MU)])  # fmt: skip
    logits = LOGITS[texts].clone().requires_grad_()
    told = facts(MU[texts, answers], REWARDS[texts, answers])
    PolicyGradient(clip=1e6).bind([1] * LABELS, CPU)(logits, answers, told).backward()
    drawn = logits.grad.reshape(TEXTS, number, LABELS)
    error = drawn.std(1) / number**0.5
    assert ((drawn.mean(1) + value_gradient()).abs() < 4 * error).all()
    assert (error < 0.02).all()  # so that the test tells something


def test_the_baseline_lowers_the_variance():
    def variance(baseline):
        found = gradients(PolicyGradient(clip=1e6, baseline=baseline))
        return float((MU[..., None] * (found - expected(found)[:, None]) ** 2).sum())

    assert variance("mean") < 0.4 * variance("none")


def test_labels_beside_decisions_are_taught_by_cross_entropy_and_minus_100_by_nothing():
    logits, targets = torch.randn(5, LABELS), torch.tensor([1, 3, 0, 2, -100])
    told = facts([np.nan, 0.5, np.nan, 0.2, 0.5], [np.nan, 1.0, np.nan, 0.0, 1.0])
    loss = PolicyGradient(class_weights="sqrt").bind([4, 3, 2, 1], CPU)
    labelled = CrossEntropy(class_weights="sqrt").bind([4, 3, 2, 1], CPU)(logits[[0, 2]], targets[[0, 2]])
    decided = loss(logits[[1, 3]], targets[[1, 3]], facts([0.5, 0.2], [1.0, 0.0]))
    assert loss(logits, targets, told).item() == pytest.approx((labelled + decided).item(), rel=1e-5)
    assert decided.item() != 0
    assert loss(logits, targets).item() == pytest.approx(
        CrossEntropy(class_weights="sqrt").bind([4, 3, 2, 1], CPU)(logits, targets).item()
    )


def test_labels_alone_have_the_gradient_of_cross_entropy():
    """As in a dry run, whose few examples may hold no decision."""
    slopes = []
    for objective in (PolicyGradient(), CrossEntropy()):
        logits = LOGITS.clone().requires_grad_()
        none = facts([np.nan] * TEXTS, [np.nan] * TEXTS, mean=float("nan"))
        objective.bind([1] * LABELS, CPU)(logits, torch.tensor([1, 0, -100]), none).backward()
        slopes.append(logits.grad)
    assert torch.equal(*slopes)


def test_entropy_makes_probabilities_more_even():
    logits = LOGITS[[0]].clone().requires_grad_()
    told = facts([0.5], [0.5], mean=0.5)  # nothing to learn but that
    PolicyGradient(entropy=0.3).bind([1] * LABELS, CPU)(logits, torch.tensor([2]), told).backward()
    probabilities = LOGITS[0].softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum()
    torch.testing.assert_close(
        logits.grad[0], 0.3 * probabilities * (probabilities.log() + entropy), atol=1e-6, rtol=1e-5
    )


def test_a_propensity_that_no_float_can_hold_is_clipped_as_any_small_one():
    logits = torch.zeros(1, 2, requires_grad=True)
    PolicyGradient().bind([1, 1], CPU)(logits, torch.tensor([0]), facts([1e-300], [1.0], mean=0.0)).backward()
    assert logits.grad[0].tolist() == pytest.approx([-5.0, 5.0])  # 10 times 1 - p


def test_the_mean_reward_counts_a_decision_once_however_long_its_text():
    logged = np.array([[np.nan, np.nan], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0], [0.1, 0.0]], np.float32)
    assert mean_reward(logged, np.array([0, 1, 1, 1, 2], np.int32)) == 0.5
    assert np.isnan(mean_reward(logged[:1], np.zeros(1, np.int32)))


@pytest.mark.parametrize("key", ["clip=0", "clip=-1", "baseline=2", "baseline=median", "entropy=-0.1"])
def test_what_makes_no_sense_is_refused(key):
    name, value = key.split("=")
    with pytest.raises(ValidationError, match=name):
        TypeAdapter(Objective).validate_python({"kind": "policy_gradient", name: value})


@pytest.mark.parametrize("task", ["token_classification", "multi_label_classification", "question_answering"])
def test_tasks_that_answer_more_than_one_label_are_refused_by_name(task):
    with pytest.raises(ConfigError, match=rf"policy_gradient: task.kind={task} does not answer one label"):
        from_mapping(TrainingConfig, {"task": {"kind": task}, "objective": {"kind": "policy_gradient"}})
