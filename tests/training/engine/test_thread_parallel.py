from __future__ import annotations

import itertools
import threading

import pytest
import torch
import transformers

from agent.errors import ConfigError
from tests.training.model.test_attention import batch, tiny
from training.engine.activation_hooks import ActivationHook, ActivationRecorder
from training.engine.engine_config import TrainingEngineConfig, choose_thread_parallel
from training.engine.thread_parallel import ThreadParallel, count_thread_groups
from training.model.attention import Attention, choose_attention
from training.model.cpu_dropout import CpuDropout, replace_dropout

CPU = torch.device("cpu")
OURS = Attention("cpu", "")
BATCHES = [batch([9, 7, 3]), batch([12, 2]), batch([5]), batch([30, 1, 1, 1])]


@pytest.fixture
def four_threads():
    """Whatever the machine has: threads of their own are what thread groups are made of."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def tagger(dropout=0.0, kind="bert"):
    model = tiny(kind, attention_probs_dropout_prob=dropout, attention_dropout=dropout)
    choose_attention(model, "cpu", device=CPU, half=False, per_token=True)
    replace_dropout(model)
    for module in model.modules():
        if isinstance(module, CpuDropout):
            module.p = dropout
    return model.train()


def parallel(model, num_groups, **options):
    return ThreadParallel(model, model.get_input_embeddings(), num_groups=num_groups, **options)


def loss_of(outputs):
    return sum((output**2).sum() for said in outputs for output in (said if isinstance(said, tuple) else (said,)))


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def plainly(batches, **options):
    """What autograd finds without thread groups."""
    model = tagger(**options)
    loss_of(model(**inputs).logits for inputs in batches).backward()
    return gradients(model)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert", "albert"])
def test_gradients_are_those_of_one_pass_after_the_other(four_threads, count, kind):
    model = tagger(kind=kind)
    side_by_side = parallel(model, count)
    for first in range(0, 4, count):
        loss_of(side_by_side.forward(BATCHES[first : first + count])).backward()
    wanted = plainly(BATCHES, kind=kind)
    for name, found in gradients(model).items():
        torch.testing.assert_close(
            found, wanted[name], rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_activations_recorded_in_thread_groups_have_the_gradients_of_one_pass_after_the_other(four_threads, count):
    def run(count):
        model = tagger()
        layers = model.bert.encoder.layer
        then = torch.nn.Linear(layers[0].output.dense.out_features, 3)
        torch.nn.init.constant_(then.weight, 0.1)
        then.bias.data.zero_()
        model.add_module("then", then)
        recorder = ActivationRecorder([ActivationHook(layers[0], then), ActivationHook(layers[1].attention.self.key)])
        side_by_side = parallel(model, count, recorder=recorder)
        for first in range(0, 4, count):
            loss_of(side_by_side.forward(BATCHES[first : first + count])).backward()
        return gradients(model)

    def plain():
        model = tagger()
        layers = model.bert.encoder.layer
        model.add_module("then", torch.nn.Linear(layers[0].output.dense.out_features, 3))
        torch.nn.init.constant_(model.then.weight, 0.1)
        model.then.bias.data.zero_()
        loss = 0
        for inputs in BATCHES:
            keys = []
            hook = layers[1].attention.self.key.register_forward_hook(lambda _, __, said, keys=keys: keys.append(said))
            output = model(**inputs, output_hidden_states=True)
            hook.remove()
            loss = loss + loss_of([(output.logits, model.then(output.hidden_states[1]), keys[0])])
        loss.backward()
        return gradients(model)

    found, wanted = run(count), plain()
    assert found["then.weight"].abs().max() > 0
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-4)


def test_fewer_batches_than_thread_groups_are_computed_too(four_threads):
    model = tagger()
    loss_of(parallel(model, 4).forward(BATCHES[:1])).backward()
    torch.testing.assert_close(gradients(model), plainly(BATCHES[:1]))


def test_rows_of_the_embedding_are_cleared_after_a_step(four_threads):
    model = tagger()
    side_by_side = parallel(model, 2)
    for batches in (BATCHES[:2], BATCHES[2:]):
        model.zero_grad()
        loss_of(side_by_side.forward(batches)).backward()
        torch.testing.assert_close(gradients(model), plainly(batches))
        side_by_side.clear_gradients(None)


def test_rows_that_another_worker_touched_are_cleared_too():
    model = tagger()
    side_by_side = parallel(model, 1)
    loss_of(side_by_side.forward(BATCHES[:1])).backward()
    table = model.get_input_embeddings().weight
    table.grad[1] = 7.0  # what an exchange writes
    side_by_side.clear_gradients(torch.cat([BATCHES[0]["input_ids"].unique(), torch.tensor([1])]))
    assert not table.grad.any()


def test_dropout_repeats_with_the_seed_however_the_thread_groups_are_timed(four_threads):
    found = []
    for seed in (1, 1, 1, 2):
        model = tagger(dropout=0.3)
        side_by_side = parallel(model, 4)
        side_by_side.seed(seed)
        outputs = side_by_side.forward(BATCHES)
        loss_of(outputs).backward()
        found.append([*itertools.chain(*outputs), *gradients(model).values()])
    for again in found[1:3]:
        assert all(map(torch.equal, found[0], again))
    assert not torch.equal(found[0][0], found[3][0])


def test_thread_groups_draw_different_numbers(four_threads):
    model = tagger(dropout=0.3)
    side_by_side = parallel(model, 2)
    side_by_side.seed(0)
    (one,), (other,) = side_by_side.forward([BATCHES[0], BATCHES[0]])
    assert not torch.equal(one, other)


def test_each_thread_group_has_its_part_of_the_threads_and_the_caller_keeps_its_own(four_threads):
    seen = {}
    model = tagger()

    class Watching(torch.nn.Module):
        def forward(self, **inputs):
            seen[threading.current_thread().name] = torch.get_num_threads()
            return model(**inputs)

    watching = Watching()
    watching.model = model
    ThreadParallel(watching, None, num_groups=2).forward(BATCHES[:2])
    assert sorted(seen.values()) == [2, 2]
    assert torch.get_num_threads() == 4


def test_an_error_in_a_thread_group_is_the_error_of_the_step(four_threads):
    with pytest.raises(IndexError):
        parallel(tagger(), 2).forward([BATCHES[0], {"input_ids": torch.tensor([[10_000]])}])


def test_what_is_frozen_stays_without_a_gradient(four_threads):
    model = tagger()
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False
    loss_of(ThreadParallel(model, None, num_groups=2).forward(BATCHES[:2])).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("threads", "tokens", "count"),
    [(1, 4096, 1), (2, 1024, 2), (2, 1023, 1), (4, 1024, 2), (4, 1536, 2), (6, 1536, 3), (6, 4096, 6), (8, 16, 1)],
)
def test_thread_groups_divide_the_threads_and_have_enough_to_do(threads, tokens, count):
    assert count_thread_groups(threads, tokens) == count


@pytest.mark.parametrize(
    ("config", "attention", "device"),
    [
        ({"zero_stage": 2}, OURS, "cpu"),
        ({"compile": True}, OURS, "cpu"),
        ({"activation_checkpointing": True}, OURS, "cpu"),
        ({}, Attention("eager", ""), "cpu"),
        ({}, OURS, "cuda"),
    ],
)
def test_where_thread_groups_cannot_be_auto_does_without_and_a_number_is_refused(
    four_threads, config, attention, device
):
    def choose(requested):
        return choose_thread_parallel(
            TrainingEngineConfig(thread_parallel=requested, **config), attention, torch.device(device), 4096, "bert"
        )

    count, why = choose("auto")
    assert count is None
    assert why
    assert choose(1)[0] is None
    with pytest.raises(ConfigError, match=r"engine\.thread_parallel=2, but"):
        choose(2)


def test_a_number_of_thread_groups_must_divide_the_threads(four_threads):
    assert choose_thread_parallel(TrainingEngineConfig(thread_parallel=4), OURS, CPU, 16, "bert") == (4, "")
    with pytest.raises(ConfigError, match="4 thread"):
        choose_thread_parallel(TrainingEngineConfig(thread_parallel=3), OURS, CPU, 4096, "bert")


def test_bf16_passes_run_under_the_callers_context(four_threads):
    model = tagger()
    outputs = parallel(model, 2, context=lambda: torch.autocast("cpu", dtype=torch.bfloat16)).forward(BATCHES[:2])
    assert {output.dtype for (output,) in outputs} == {torch.bfloat16}
    loss_of(output.float() for (output,) in outputs).backward()
    wanted = plainly(BATCHES[:2])
    for name, found in gradients(model).items():
        assert found.dtype is torch.float32
        error = (found - wanted[name]).norm() / wanted[name].norm().clamp_min(1e-3)
        assert error < 0.1, name


def test_no_known_model_draws_random_numbers_past_our_dropout(four_threads, monkeypatch):
    """Else two thread groups would share torch's generator in an order of chance."""
    from training.model.attention import _CPU_FAMILIES

    def refuse(*_, **__):
        raise AssertionError("torch's own dropout ran")

    monkeypatch.setattr(torch, "dropout", refuse)
    monkeypatch.setattr(torch.nn.functional, "dropout", refuse)
    for kind in sorted(_CPU_FAMILIES & set(transformers.CONFIG_MAPPING)):
        try:
            model = tiny(kind)
        except ValueError:  # no tagger of this family
            continue
        choose_attention(model, "cpu", device=CPU, half=False, per_token=True)
        replace_dropout(model)
        model.train()(**batch([4, 3]))
