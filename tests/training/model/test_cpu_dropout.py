from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from training.model.cpu_dropout import CpuDropout, ThreadRandomness, dropout, replace_dropout, seed_thread

COUNT = 1 << 22


@pytest.mark.parametrize("probability", [0.0, 1e-4, 0.1, 0.5, 0.9, 0.999, 1 - 3 / 65536])
def test_as_many_are_dropped_as_the_probability_says_and_the_mean_stays(probability):
    torch.manual_seed(0)
    dropped = dropout(torch.ones(COUNT), probability)
    kept = (dropped != 0).double().mean().item()
    spread = math.sqrt(probability * (1 - probability) / COUNT)
    assert abs(kept - (1 - probability)) <= 5 * spread + 0.5 / 65536
    assert dropped.double().mean().item() == pytest.approx(1, abs=6 * spread / (1 - probability) + 1e-6)
    assert len(dropped.unique()) == (2 if probability else 1)


@pytest.mark.parametrize("probability", [0.999999, 1.0])
def test_a_probability_next_to_one_drops_all_instead_of_none(probability):
    assert not dropout(torch.ones(10_000), probability).any()


def test_the_scale_keeps_the_expectation_to_float_precision():
    dropped = dropout(torch.ones(10_000), 0.1)
    kept = round(0.1 * 65536) / 65536
    assert dropped.max().item() == pytest.approx(1 / (1 - kept), rel=1e-7)


def test_neighbours_are_dropped_independently():
    """All four numbers that share a draw of 64 bits, and numbers further apart."""
    torch.manual_seed(1)
    kept = (dropout(torch.ones(COUNT), 0.5) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 8, 64):
        correlation = 4 * (kept[:-lag] * kept[lag:]).mean().item()
        assert abs(correlation) < 5 / math.sqrt(COUNT)
    for place in range(4):
        assert abs(kept[place::4].mean().item()) < 5 * 0.5 / math.sqrt(COUNT / 4)


def test_the_gradient_passes_where_the_value_passed():
    values = torch.randn(50, 40, requires_grad=True)
    dropped = dropout(values, 0.3)
    upstream = torch.randn(50, 40)
    dropped.backward(upstream)
    mask = dropped.detach() / values.detach()
    torch.testing.assert_close(values.grad, upstream * mask)


def test_one_seed_is_one_mask_and_another_is_another():
    def masked(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(1000), 0.5)

    assert masked(3).equal(masked(3))
    assert not masked(3).equal(masked(4))
    torch.manual_seed(3)
    assert not dropout(torch.ones(1000), 0.5).equal(dropout(torch.ones(1000), 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_type_and_shape_stay(dtype):
    values = torch.randn(3, 5, 7).to(dtype)
    dropped = dropout(values, 0.4)
    assert (dropped.dtype, dropped.shape) == (dtype, values.shape)
    kept = dropped != 0
    torch.testing.assert_close(
        dropped[kept], (values / 0.6)[kept], rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0
    )


@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (3,), (5, 1, 3)])
def test_any_number_of_values_is_taken(shape):
    values = torch.ones(shape, requires_grad=True)
    dropped = dropout(values, 0.5)
    dropped.sum().backward()
    assert dropped.shape == values.grad.shape == shape


def test_values_that_lie_apart_in_memory_are_dropped_alike():
    values = torch.randn(64, 32)
    torch.manual_seed(5)
    apart = dropout(values.T.contiguous().T, 0.5)
    torch.manual_seed(5)
    assert apart.equal(dropout(values, 0.5))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.25)
        self.again = self.drop  # a second name
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), nn.Sequential(nn.Dropout1d(0.5))])
        self.off = nn.Dropout(0.0)
        self.alpha = nn.AlphaDropout(0.5)

    def forward(self, values):
        return self.off(self.layers[0](self.again(self.drop(values))))


def test_installing_replaces_every_dropout_and_nothing_else():
    model = Block().eval()
    before = dict(model.named_modules(remove_duplicate=False))
    replace_dropout(model)
    after = dict(model.named_modules(remove_duplicate=False))
    assert before.keys() == after.keys()
    for name, module in before.items():
        if type(module) is nn.Dropout:
            assert type(after[name]) is CpuDropout, name
            assert (after[name].p, after[name].training) == (module.p, False)
        else:
            assert after[name] is module, name
    assert [name for name, module in after.items() if type(module) is CpuDropout] == [
        "drop",
        "again",
        "layers.0.1",
        "off",
    ]


def test_a_model_in_evaluation_is_left_alone():
    model = Block().eval()
    values = torch.randn(8, 4)
    wanted = model(values)
    replace_dropout(model)
    assert model(values).equal(wanted)
    assert not model.train()(values).equal(wanted)
    assert model.eval()(values).equal(wanted)


def test_no_probability_no_random_numbers():
    drop = CpuDropout(0.0).train()
    values = torch.randn(10)
    state = torch.get_rng_state()
    assert drop(values) is values
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_mask_that_is_computed_again_is_the_same_mask(reentrant):
    replace_dropout(model := Block().train())
    values = torch.randn(16, 4)

    def gradients(run):
        torch.manual_seed(11)
        inputs = values.clone().requires_grad_()
        model.zero_grad()
        result = run(inputs)
        result.square().sum().backward()
        return result.detach(), inputs.grad, model.layers[0][0].weight.grad.clone()

    plain = gradients(model)
    again = gradients(lambda inputs: checkpoint(model, inputs, use_reentrant=reentrant))
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_functions_draw_from_the_generator_of_the_thread():
    values = torch.ones(2, 4, 8, 16)
    drawing = {
        "dropout": lambda: nn.functional.dropout(values, 0.5),
        "attention": lambda: nn.functional.scaled_dot_product_attention(values, values, values, dropout_p=0.5),
        "layers": lambda: torch.rand([]),
    }
    for draw in drawing.values():
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(len(found))
            before = torch.get_rng_state()
            with ThreadPoolExecutor(1) as thread, ThreadRandomness():
                thread.submit(seed_thread, seed).result()
                found.append(thread.submit(in_thread, draw).result())
            assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(found[0], found[1])
        assert not torch.equal(found[0], found[2])
    assert nn.functional.dropout(values, 0.5, training=False) is values


def in_thread(draw):
    with ThreadRandomness():
        return draw()


@pytest.mark.parametrize("masked", ["not", "by truth", "by numbers", "causal"])
@pytest.mark.parametrize("shared", [False, True])
def test_attention_that_drops_nothing_is_that_of_torch(masked, shared):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 7, 16, generator=generator) for heads in (4, 2, 2))
    if not shared:
        key, value = key.repeat(1, 2, 1, 1), value.repeat(1, 2, 1, 1)
    seen = torch.rand(2, 1, 7, 7, generator=generator) < 0.7
    seen[..., 0] = True
    options = {
        "not": {}, "by truth": {"attn_mask": seen}, "by numbers": {"attn_mask": torch.randn(2, 1, 7, 7, generator=generator)},
        "causal": {"is_causal": True},
    }[masked] | {"enable_gqa": shared, "scale": 0.3}  # fmt: skip
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, **options)
    with ThreadRandomness():  # a rate that rounds to none
        found = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=1e-6, **options)
    torch.testing.assert_close(found, wanted)
