"""Every objective: sums in fp32, leaves out -100, weighs classes, compiles."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from agent.errors import ConfigError
from agent.tasks import QuestionAnswering
from agent.tasks.output_decision import EACH_OUTPUT, TOKENS
from tests.compression.agents import tiny_model
from training.model.models import logits_of
from training.objectives import CrossEntropy, Focal, Objective, PolicyGradient, RewardLikelihood, SelfCritical

KINDS = get_args(get_args(Objective)[0])
OF_OUTPUTS = (CrossEntropy, Focal)  # that decide yes or no for each output too
OF_LABELS = (
    *OF_OUTPUTS,
    PolicyGradient,
    RewardLikelihood,
)  # that need no task; what is logged or drawn has tests of its own


def each_of(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=[kind.model_fields["kind"].default for kind in kinds])


every_objective, every_binary_objective = each_of(OF_LABELS), each_of(OF_OUTPUTS)
CPU = torch.device("cpu")
COUNTS = (80, 15, 5)


def sample(seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (4, 6), generator=generator)
    targets[:, ::3] = -100
    return torch.randn(4, 6, 3, generator=generator) * 3, targets


def test_the_union_is_the_registry():
    assert set(KINDS) == {CrossEntropy, Focal, PolicyGradient, RewardLikelihood, SelfCritical}
    for kind in KINDS:
        assert TypeAdapter(Objective).validate_python({"kind": kind.model_fields["kind"].default}) == kind()
    with pytest.raises(ValidationError, match="hinge"):
        TypeAdapter(Objective).validate_python({"kind": "hinge"})


def test_plain_cross_entropy_is_that_of_torch():
    logits, targets = sample()
    expected = cross_entropy(logits.reshape(-1, 3), targets.reshape(-1), reduction="sum", label_smoothing=0.1)
    assert torch.equal(CrossEntropy(label_smoothing=0.1).bind(COUNTS, CPU)(logits, targets), expected)


@every_objective
@pytest.mark.parametrize("class_weights", ["none", "balanced", "sqrt"])
def test_a_loss_is_a_sum_over_labelled_targets_in_fp32(kind, class_weights):
    loss = kind(class_weights=class_weights).bind(COUNTS, CPU)
    logits, targets = sample()
    whole = loss(logits.bfloat16(), targets)
    assert whole.dtype == torch.float32
    labelled = targets != -100
    parts = [
        loss(row[None].bfloat16(), target[None])
        for row, target in zip(logits[labelled], targets[labelled], strict=True)
    ]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-5)
    assert loss(logits[:, 0], targets[:, 1]).ndim == 0  # one target per row: text classification


@every_objective
@pytest.mark.parametrize("shape", [(2, 5, 3), (0, 5, 3)])
def test_without_a_labelled_target_loss_and_gradient_are_zero(kind, shape):
    logits = torch.randn(shape, requires_grad=True)
    value = kind(class_weights="balanced").bind(COUNTS, CPU)(logits, torch.full(shape[:-1], -100))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(shape))


@every_objective
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_every_loss_compiles_without_a_break(kind, class_weights):
    loss = kind(class_weights=class_weights).bind(COUNTS, CPU)
    logits, targets = sample()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    slopes = []
    for function in (loss, compiled):
        inputs = logits.clone().requires_grad_()
        function(inputs, targets).backward()
        slopes.append(inputs.grad)
    assert torch.allclose(*slopes, atol=1e-6)


@given(
    counts=st.lists(st.integers(0, 10_000), min_size=1, max_size=12).filter(any),
    class_weights=st.sampled_from(["balanced", "sqrt"]),
)
def test_class_weights_have_a_mean_of_one_over_the_targets_and_favour_the_rare(counts, class_weights):
    weights = CrossEntropy(class_weights=class_weights).weights(counts, CPU).double()
    seen = torch.tensor(counts, dtype=torch.float64)
    assert ((weights * seen).sum() / seen.sum()).item() == pytest.approx(1, rel=1e-5)
    assert torch.isfinite(weights).all()
    assert (weights[seen == 0] == 1).all()
    present = sorted((count, weight) for count, weight in zip(counts, weights.tolist(), strict=True) if count)
    assert all(more >= less - 1e-6 for (_, more), (_, less) in itertools.pairwise(present))


def test_balanced_gives_every_class_the_same_sum_and_sqrt_the_root_of_it():
    balanced = CrossEntropy(class_weights="balanced").weights(COUNTS, CPU)
    root = CrossEntropy(class_weights="sqrt").weights(COUNTS, CPU)
    assert (balanced * torch.tensor(COUNTS)).tolist() == pytest.approx([100 / 3] * 3)
    assert (root[2] / root[0]).item() == pytest.approx((balanced[2] / balanced[0]).item() ** 0.5)
    assert CrossEntropy().weights(COUNTS, CPU) is None


@every_objective
def test_weights_scale_the_terms_of_their_class(kind):
    logits = torch.randn(1, 3)
    weights = kind(class_weights="balanced").weights(COUNTS, CPU)
    for target in range(3):
        plain, weighted = (
            kind(class_weights=name).bind(COUNTS, CPU)(logits, torch.tensor([target])) for name in ("none", "balanced")
        )
        assert (weighted / plain).item() == pytest.approx(weights[target].item(), rel=1e-5)


def test_focal_loss_with_gamma_zero_is_cross_entropy():
    logits, targets = sample()
    losses = [objective.bind(COUNTS, CPU)(logits, targets) for objective in (Focal(gamma=0.0), CrossEntropy())]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)


@given(gamma=st.floats(0, 5), logit=st.floats(-8, 8))
def test_focal_loss_is_the_formula_of_its_paper(gamma, logit):
    p = torch.sigmoid(torch.tensor(logit, dtype=torch.float64))
    expected = -((1 - p) ** gamma) * torch.log(p)
    value = Focal(gamma=gamma).bind((1, 1), CPU)(torch.tensor([[0.0, logit]]), torch.tensor([1]))
    assert value.item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_focal_loss_has_a_finite_gradient_however_sure_the_model_is(gamma, logit):
    logits = torch.tensor([[0.0, logit], [0.0, logit]], requires_grad=True)
    Focal(gamma=gamma).bind((1, 1), CPU)(logits, torch.tensor([1, -100])).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all()


# --- outputs that are decided each by itself


def binary_sample():
    logits, drawn = sample()
    targets = (torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.4).long()
    return logits, targets.masked_fill((drawn == -100)[..., None], -100)


def test_binary_cross_entropy_is_that_of_torch():
    logits, targets = binary_sample()
    known = targets != -100
    for smoothing in (0.0, 0.2):
        wanted = targets[known].float() * (1 - smoothing) + smoothing / 2
        expected = binary_cross_entropy_with_logits(logits[known], wanted, reduction="sum")
        loss = CrossEntropy(label_smoothing=smoothing).bind(COUNTS, CPU, EACH_OUTPUT)
        torch.testing.assert_close(loss(logits.bfloat16().float(), targets), loss(logits.bfloat16(), targets))
        torch.testing.assert_close(loss(logits, targets), expected)


@every_binary_objective
def test_weights_scale_the_terms_of_labels_that_hold(kind):
    logits, targets = torch.randn(1, 3), torch.tensor([[1, 0, 1]])
    weights = kind(class_weights="balanced").weights(COUNTS, CPU)
    plain, weighted = (kind(class_weights=name).bind(COUNTS, CPU, EACH_OUTPUT) for name in ("none", "balanced"))
    alone = [plain(logits[:, [n]], targets[:, [n]]) for n in range(3)]
    factors = (weights[0], 1, weights[2])
    expected = sum(term * factor for term, factor in zip(alone, factors, strict=True))
    assert weighted(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


@every_binary_objective
def test_without_a_labelled_binary_target_loss_and_gradient_are_zero(kind):
    logits = torch.randn(2, 3, requires_grad=True)
    value = kind().bind(COUNTS, CPU, EACH_OUTPUT)(logits, torch.full((2, 3), -100))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_binary_focal_loss_with_gamma_zero_is_cross_entropy_and_falls_with_what_is_certain():
    logits, targets = binary_sample()
    plain, focal, sharper = (
        objective.bind(COUNTS, CPU, EACH_OUTPUT)(logits, targets).item()
        for objective in (CrossEntropy(), Focal(gamma=0.0), Focal(gamma=2.0))
    )
    assert focal == pytest.approx(plain, rel=1e-6)
    assert sharper < plain


# --- outputs that choose a token each


def test_choices_of_tokens_lose_what_transformers_says_of_a_batch_and_padding_is_out_of_reach():
    model = tiny_model("bert", QuestionAnswering())
    places = torch.tensor([[2, 4], [0, 0]])
    whole = {"input_ids": torch.randint(5, 300, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    theirs = model(
        **whole, start_positions=places[:, 0], end_positions=places[:, 1]
    ).loss  # a mean of both, and of rows
    loss = CrossEntropy().bind((0, 0), CPU, TOKENS)
    logits = logits_of(model(**whole), whole)
    assert loss(logits, places).item() == pytest.approx(4 * theirs.item(), rel=1e-5)
    wider = {name: torch.nn.functional.pad(tensor, (0, 3)) for name, tensor in whole.items()}
    padded = logits_of(model(**wider), wider)
    assert padded.shape == (2, 2, 12)
    assert loss(padded, places).item() == pytest.approx(loss(logits, places).item(), rel=1e-5)
    assert torch.equal(padded.softmax(-1)[..., 9:], torch.zeros(2, 2, 3))


@pytest.mark.parametrize(
    ("objective", "key"),
    [
        (CrossEntropy(label_smoothing=0.1), "label_smoothing"),
        (CrossEntropy(class_weights="sqrt"), "class_weights"),
        (Focal(class_weights="balanced"), "class_weights"),
    ],
)
def test_what_is_about_labels_is_refused_where_tokens_are_chosen(objective, key):
    with pytest.raises(ConfigError, match=rf"objective.{key} is about labels"):
        objective.bind((0, 0), CPU, TOKENS)
    assert Focal(gamma=1).bind((0, 0), CPU, TOKENS)
