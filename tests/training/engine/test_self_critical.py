"""Self-critical training, beside enumeration of all answers of a tiny tagger and a tiny reader."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from agent.config.base import from_mapping
from agent.errors import ConfigError
from agent.tasks import QuestionAnswering, TokenClassification
from agent.tasks.output_decision import OUT_OF_REACH
from training.config import TrainingConfig
from training.objectives import CrossEntropy, SelfCritical
from training.objectives.self_critical import draw_choices
from training.objectives.window_facts import WindowFacts

CPU = torch.device("cpu")
TAGGER, READER = TokenClassification(labels=("X",)), QuestionAnswering()
LOGITS = torch.tensor([[[0.5, 0.1, -0.4], [0.3, -0.2, 0.6]]], dtype=torch.float32)  # O, B-X, I-X of two tokens
GOLD = torch.tensor([[1, 2]])


def facts(number, first=0):
    keys = np.arange(first, first + number, dtype=np.uint64)
    return WindowFacts(keys, np.full((number, 2), np.nan, np.float32), float("nan"))


def expected_reward_gradient(task, logits, gold):
    """By all answers: float32 like logits [choices, options]."""
    inputs = logits.clone().requires_grad_()
    log_probs = inputs.log_softmax(-1)
    total = torch.zeros(())
    for answer in itertools.product(range(logits.shape[-1]), repeat=len(logits)):
        chosen = np.array(answer)
        total = total + log_probs[range(len(logits)), chosen].sum().exp() * task.reward_of(chosen, gold.numpy())
    total.backward()
    return inputs.grad


@pytest.mark.parametrize(
    ("task", "logits", "gold"),
    [(TAGGER, LOGITS[0], GOLD[0]), (READER, torch.tensor([[0.2, 0.9, -0.3, 0.1], [0.0, 0.4, 0.8, -0.5]]), torch.tensor([1, 2]))],
    ids=["tagger", "reader"],
)  # fmt: skip
def test_the_mean_over_many_samples_is_the_gradient_of_the_expected_reward(task, logits, gold):
    number, samples = 1_000, 16
    rows = logits.expand(number, *logits.shape).clone().requires_grad_()
    loss = SelfCritical(samples=samples, supervised=0).bind([1] * 3, CPU, task.decision, task)
    loss(rows, gold.expand(number, -1), facts(number)).backward()
    error = rows.grad.std(0) / number**0.5
    wanted = expected_reward_gradient(task, logits, gold)
    assert ((rows.grad.mean(0) + wanted).abs() < 4 * error).all()
    assert (error < 0.2 * wanted.abs().max()).all()


@pytest.mark.parametrize(("gold", "lowers"), [((1, 1), True), ((0, 0), False)], ids=["two entities", "none"])
def test_the_decoded_answer_as_baseline_leaves_the_mean_and_lowers_the_variance_where_there_are_entities(gold, lowers):
    """By enumeration, of a tagger that is right already. Where there is no entity every reward is 0 or 1, and the baseline costs variance."""
    wanted = np.array(gold)
    logits = torch.zeros(2, 3).scatter_(1, torch.tensor(gold)[:, None], 1.5)
    worth = TAGGER.reward_of(TAGGER.best_choices(logits.numpy()), wanted)
    assert worth == 1.0
    probabilities, found = [], {0.0: [], worth: []}
    for answer in itertools.product(range(3), repeat=2):
        inputs = logits.clone().requires_grad_()
        log_prob = inputs.log_softmax(-1)[[0, 1], list(answer)].sum()
        log_prob.backward()
        probabilities.append(log_prob.exp().item())
        for baseline, gradients in found.items():
            gradients.append((TAGGER.reward_of(np.array(answer), wanted) - baseline) * inputs.grad)
    weights = torch.tensor(probabilities)[:, None, None]
    means = {baseline: (weights * torch.stack(gradients)).sum(0) for baseline, gradients in found.items()}
    torch.testing.assert_close(means[0.0], means[worth])
    variances = {key: (weights * (torch.stack(found[key]) - means[key]) ** 2).sum().item() for key in found}
    assert (variances[worth] < variances[0.0]) == lowers


@pytest.mark.parametrize(
    ("chosen", "reward"), [((1, 2), 1.0), ((2, 2), 1.0), ((1, 1), 0.0), ((0, 0), 0.0), ((1, 0), 0.0)]
)
def test_tags_are_rewarded_as_they_are_decoded(chosen, reward):
    assert TAGGER.reward_of(np.array(chosen), GOLD[0].numpy()) == reward  # an I- that continues nothing begins


def test_sentence_f1_is_that_of_exact_entities():
    task = TokenClassification(labels=("X", "Y"))  # O, B-X, I-X, B-Y, I-Y
    gold = np.array([1, 2, 0, 3, 0])
    assert task.reward_of(np.array([1, 2, 0, 0, 0]), gold) == pytest.approx(2 / 3)
    assert task.reward_of(np.array([1, 2, 0, 1, 0]), gold) == pytest.approx(1 / 2)
    assert task.reward_of(np.zeros(5, np.int64), np.zeros(5, np.int64)) == 1.0
    assert task.reward_of(gold, np.zeros(5, np.int64)) == 0.0


def test_answers_are_decoded_as_the_task_decodes():
    logits = np.array([[2.0, 0.0, 1.0], [0.0, 1.0, 1.5]], np.float32)
    assert TAGGER.best_choices(logits).tolist() == [0, 2]
    assert TokenClassification(labels=("X",), decoding="viterbi").best_choices(logits).tolist() == [0, 1]
    scores = np.array([[0.0, 1.0, 5.0, OUT_OF_REACH], [0.0, 4.0, 1.0, OUT_OF_REACH]], np.float32)
    assert READER.best_choices(scores).tolist() == [2, 2]  # not from 2 back to 1
    long = np.zeros((2, 9), np.float32)
    long[0, 1], long[1, 8] = 3.0, 3.0
    assert READER.best_choices(long).tolist() == [1, 8]
    assert QuestionAnswering(max_answer_tokens=4).best_choices(long).tolist() == [1, 1]
    none = np.zeros((2, 5), np.float32)
    none[:, 0] = 9.0
    assert READER.best_choices(none).tolist() == [0, 0]


def test_supervised_is_the_part_of_cross_entropy_and_what_has_no_target_counts_nothing():
    targets = torch.tensor([[1, 2, -100], [-100, -100, -100]])
    logits = torch.randn(2, 3, 3)
    whole, half = (SelfCritical(supervised=part).bind([1] * 3, CPU, TAGGER.decision, TAGGER) for part in (0.0, 0.5))
    labelled = CrossEntropy().bind([1] * 3, CPU)(logits, targets)
    told = facts(2, first=7)
    assert half(logits, targets, told).item() == pytest.approx(0.5 * (whole(logits, targets, told) + labelled).item())
    inputs = logits.clone().requires_grad_()
    half(inputs, targets, told).backward()
    assert (inputs.grad[0, 2] == 0).all()
    assert (inputs.grad[1] == 0).all()
    assert (
        half(logits, targets).item() == labelled.item()
    )  # of windows that nothing else is known of: what checkpoints compare
    empty = torch.full((1, 3), -100)
    assert half(torch.randn(1, 3, 3), empty, facts(1)).item() == 0.0


def test_draws_depend_on_the_key_alone_and_never_fall_on_padding():
    scores = torch.randn(2, 6).log_softmax(-1).numpy()
    padded = np.concatenate([scores, np.full((2, 5), OUT_OF_REACH, np.float32)], axis=1)
    drawn = draw_choices(scores, 50, 3)
    assert draw_choices(padded, 50, 3).tolist() == drawn.tolist()
    assert draw_choices(scores, 50, 4).tolist() != drawn.tolist()
    many = draw_choices(np.log(np.array([[0.7, 0.0, 0.3]], np.float32) + 1e-30), 20_000, 0)
    assert np.bincount(many[0], minlength=3) / 20_000 == pytest.approx([0.7, 0.0, 0.3], abs=0.015)


@pytest.mark.parametrize("task", ["text_classification", "multi_label_classification", "masked_language_modelling"])
def test_tasks_without_a_reward_are_refused_by_name(task):
    with pytest.raises(ConfigError, match=rf"self_critical: task.kind={task} has no reward .*token_classification"):
        from_mapping(TrainingConfig, {"task": {"kind": task}, "objective": {"kind": "self_critical"}})
