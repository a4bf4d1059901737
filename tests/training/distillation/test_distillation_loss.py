"""What is learned from inside of a teacher: equal to a plain computation, falls in training, and weighs nothing at weight 0."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.config.base import from_mapping
from agent.errors import ConfigError
from agent.tasks import QuestionAnswering
from agent.tasks.output_decision import TOKENS
from tests.compression.agents import tiny_model
from tests.training.model.test_attention import batch, tiny
from training.config import TrainingConfig
from training.data.packing import UNLABELLED
from training.distillation.distillation_loss import Teacher, hidden_distance, relation_divergence
from training.distillation.teacher import HiddenConfig, TeacherConfig
from training.model.attention import choose_attention, run_packed, unpack
from training.model.models import logits_of
from training.objectives import CrossEntropy

INPUTS = batch([9, 7, 3, 1])
FAMILIES = ["bert", "distilbert", "roberta", "electra", "deberta-v2"]


def targets_of(logits, seed=0):
    shape = logits.shape[:2]
    drawn = torch.randint(0, logits.shape[-1], shape, generator=torch.Generator().manual_seed(seed))
    mask = INPUTS["attention_mask"].bool()
    drawn[:, ::3] = -100
    return drawn.masked_fill(~mask, -100)


def config(**changes):
    return from_mapping(TeacherConfig, {"bundle": "x", **changes})


def pair(kind="bert", **changes):
    """A teacher and a student that differ in their weights, and maybe in more."""
    found = tiny(kind), tiny(kind, **changes)
    for seed, model in enumerate(found):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.02)
    return found


def labels(logits, targets):
    return CrossEntropy().bind([1] * logits.shape[-1], torch.device("cpu"))(logits, targets)


def blended(teacher, student, config, targets=None):
    bound = Teacher(copy.deepcopy(teacher), config)
    recorder = bound.attach(student)
    outputs = recorder.record(lambda: student(**INPUTS).logits)
    return bound.loss(labels, outputs, targets_of(outputs[0]) if targets is None else targets, INPUTS)


def attended(model, inputs):
    """Queries, keys and values of the last layer, [rows, tokens, width] each, by hooks of their own."""
    found = {}
    for name, module in model.named_modules():
        for ends in (("query", "q_lin", "query_proj"), ("key", "k_lin", "key_proj"), ("value", "v_lin", "value_proj")):
            if name.rpartition(".")[2] in ends:
                module.register_forward_hook(
                    lambda _, __, outputs, kind=ends[0]: found.__setitem__(kind, outputs)
                )  # the last wins
    model(**inputs)
    return [found[kind] for kind in ("query", "key", "value")]


@pytest.mark.parametrize("kind", FAMILIES)
def test_hidden_states_and_relations_cost_what_a_plain_computation_says(kind):
    teacher, student = pair(kind)
    shown, own = (model(**INPUTS, output_hidden_states=True).hidden_states for model in (teacher, student))
    related = [attended(copy.deepcopy(model), INPUTS) for model in (student, teacher)]
    logits = student(**INPUTS).logits
    targets = targets_of(logits)
    heads, wanted = student.config.num_attention_heads, torch.zeros(())
    for row, length in enumerate(INPUTS["attention_mask"].sum(1).tolist()):
        count = int((targets[row] != -100).sum())
        for here, there in zip(own[1:], shown[1:], strict=True):
            distance = torch.nn.functional.mse_loss(here[row, :length], there[row, :length])
            wanted = wanted + 0.5 * count * distance / len(own[1:])
        for here, there in zip(*related, strict=True):
            ours, theirs = (
                torch.stack(
                    [
                        torch.softmax(part @ part.T / part.shape[1] ** 0.5, -1)
                        for part in vectors[row, :length].chunk(heads, -1)
                    ]
                )
                for vectors in (here, there)
            )
            wanted = wanted + 0.25 * count * (theirs * (theirs / ours).log()).sum(-1).mean()
    plain = blended(teacher, copy.deepcopy(student), config())
    found = blended(teacher, student, config(hidden={"weight": 0.5}, relations={"weight": 0.25}))
    torch.testing.assert_close(found - plain, wanted, rtol=2e-4, atol=1e-4)


@given(seed=st.integers(0, 99), weight=st.floats(0.05, 1))
def test_weights_of_nothing_change_nothing(seed, weight):
    teacher, student = pair()
    nothing = {"hidden": {"weight": 0.0}, "relations": {"weight": 0.0, "layer": 1, "heads": 2}}
    targets = targets_of(student(**INPUTS).logits, seed)
    with_nothing = blended(teacher, copy.deepcopy(student), config(weight=weight, **nothing), targets)
    assert torch.equal(with_nothing, blended(teacher, student, config(weight=weight), targets))
    assert not [name for name, _ in student.named_parameters() if "teacher" in name]


@pytest.mark.parametrize("part", ["hidden", "relations"])
def test_what_is_learned_from_inside_falls_in_training(part):
    teacher, student = pair()
    bound = Teacher(teacher, config(weight=1e-9, **{part: {"weight": 1.0}}))
    recorder = bound.attach(student)
    targets = targets_of(student(**INPUTS).logits)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = bound.loss(
            lambda *_: torch.zeros(()), recorder.record(lambda: student(**INPUTS).logits), targets, INPUTS
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_of_another_width_learns_through_projections_that_are_trained():
    teacher, student = pair(hidden_size=12, num_attention_heads=2)
    bound = Teacher(teacher, config(hidden={"weight": 1.0}, relations={"weight": 1.0, "heads": 2}))
    recorder = bound.attach(student)
    outputs = recorder.record(lambda: student(**INPUTS).logits)
    bound.loss(labels, outputs, targets_of(outputs[0]), INPUTS).backward()
    projections = {name: value for name, value in student.named_parameters() if name.startswith("teacher_projections.")}
    assert len(projections) == 2 * student.config.num_hidden_layers
    assert all(value.grad.abs().max() > 0 for value in projections.values())
    assert {tuple(value.shape) for value in projections.values()} == {
        (teacher.config.hidden_size, 12),
        (teacher.config.hidden_size,),
    }


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_rows_without_padding_cost_the_same(kind):
    teacher, student = pair(kind)
    wanted = blended(teacher, copy.deepcopy(student), config(hidden={"weight": 1.0}, relations={"weight": 1.0}))
    assert not choose_attention(student, "sdpa", device=torch.device("cpu"), half=False, per_token=True).packed
    from training.model import attention

    attention._set_implementation(student, attention._VARLEN)
    bound = Teacher(teacher, config(hidden={"weight": 1.0}, relations={"weight": 1.0}))
    recorder = bound.attach(student)
    outputs = recorder.record(lambda: run_packed(lambda **inputs: student(**inputs).logits, INPUTS))
    mask = INPUTS["attention_mask"].bool()
    outputs = outputs[0], *(unpack(flat, mask) for flat in outputs[1:])
    torch.testing.assert_close(
        bound.loss(labels, outputs, targets_of(outputs[0]), INPUTS), wanted, rtol=1e-4, atol=1e-4
    )


def test_layers_that_are_computed_again_in_the_backward_pass_have_the_same_gradients():
    gradients = []
    for again in (False, True):
        teacher, student = pair()
        student.train()
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if again:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        blended(teacher, student, config(hidden={"weight": 1.0}, relations={"weight": 1.0})).backward()
        gradients.append([p.grad for p in student.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_row_of_one_window_is_compared_as_often_as_it_has_targets():
    """One target per row: the same whatever micro-batches rows are in."""
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[1, 2] = False
    one, other = torch.randn(2, 2, 3, 8).unbind()
    whole = hidden_distance(one, other, mask)
    torch.testing.assert_close(whole[1], ((one[1, :2] - other[1, :2]) ** 2).mean())
    assert float(relation_divergence(one, one, mask, heads=2).abs().max()) < 1e-6


def test_unlabelled_targets_have_the_teachers_part_only_and_labels_keep_theirs():
    teacher, student = pair()
    logits = student(**INPUTS).logits
    targets = targets_of(logits)
    asked = targets != -100
    half = targets.clone()
    half[2:] = torch.where(asked[2:], UNLABELLED, -100)
    number, known = int(asked.sum()), int((half >= 0).sum())
    bound = Teacher(teacher, config(weight=0.8), label_weight=number / known)
    loss = bound.loss(labels, (logits,), half, INPUTS) / number
    soft = Teacher(teacher, config(weight=1.0)).loss(labels, (logits,), targets, INPUTS) / number
    hard = torch.nn.functional.cross_entropy(logits[half >= 0], half[half >= 0])
    torch.testing.assert_close(loss, 0.2 * hard + 0.8 * soft)


def test_soft_targets_of_binary_outputs_are_the_divergences_of_each_by_itself():
    teacher = tiny("bert")
    temperature = 2.0
    with torch.no_grad():
        shown = teacher(**INPUTS).logits
    student = torch.randn_like(shown)
    targets = torch.ones_like(shown, dtype=torch.long)
    targets[:, ::3] = -100
    bound = Teacher(teacher, config(weight=1.0, temperature=temperature), binary=True)
    ours, theirs = (torch.sigmoid(one / temperature) for one in (student, shown))
    terms = theirs * (theirs / ours).log() + (1 - theirs) * ((1 - theirs) / (1 - ours)).log()
    loss = bound.loss(lambda logits, targets: torch.zeros(()), (student,), targets, INPUTS)
    torch.testing.assert_close(loss, temperature**2 * terms[targets != -100].sum())


@given(own=st.integers(1, 12), others=st.integers(1, 24))
def test_layers_are_spread_evenly_and_the_last_learns_from_the_last(own, others):
    found = HiddenConfig().match(own, others)
    assert len(found) == own
    assert found[-1] == others
    assert list(found) == sorted(found)
    assert all(1 <= layer <= others for layer in found)
    if own == others:
        assert found == tuple(range(1, own + 1))


@pytest.mark.parametrize("layers", [[1], [1, 9], [1, 2, 3]])
def test_layers_that_do_not_fit_are_refused(layers):
    with pytest.raises(ConfigError, match=r"teacher\.hidden\.layers"):
        HiddenConfig(layers=tuple(layers)).match(2, 4)


def test_an_encoder_without_a_list_of_layers_is_refused():
    teacher = tiny("albert")
    bound = Teacher(teacher, config(hidden={"weight": 1.0}))
    with pytest.raises(ConfigError, match="laid out in a way that is not supported"):
        bound.attach(tiny("albert"))


def test_a_compiled_model_cannot_be_listened_to():
    with pytest.raises(ConfigError, match=r"engine\.compile=true hides"):
        from_mapping(
            TrainingConfig,
            {"engine": {"compile": True}, "teacher": {"bundle": "x", "hidden": {"weight": 1}}},
        )


def test_soft_targets_of_starts_and_ends_are_their_divergences_over_tokens():
    """Padding takes no part, however far its logits are."""
    student, teacher = (tiny_model("bert", QuestionAnswering()) for _ in range(2))
    for parameter in teacher.parameters():
        parameter.data *= 1.1
    places = torch.tensor([[1, 2], [0, 0], [1, 1], [0, 0]])
    bound = Teacher(copy.deepcopy(teacher), config(weight=1.0, temperature=2.0))
    with torch.no_grad():
        ours, theirs = (logits_of(model(**INPUTS), INPUTS) for model in (student, teacher))
    found = bound.loss(CrossEntropy().bind((0, 0), torch.device("cpu"), TOKENS), (ours,), places, INPUTS)
    expected = 0.0
    for row, length in enumerate(INPUTS["attention_mask"].sum(1).tolist()):
        for output in range(2):
            said, wanted = (logits[row, output, :length].div(2).log_softmax(-1) for logits in (ours, theirs))
            expected += 4 * float((wanted.exp() * (wanted - said)).sum())
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3
