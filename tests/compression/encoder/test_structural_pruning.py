"""Zeroed and slimmed networks answer alike; selection never empties a layer; the repair is the least-squares optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.tasks import TextClassification, TokenClassification
from compression.encoder.encoder_structure import find_blocks, is_prunable
from compression.encoder.structural_pruning import num_parameters, slim
from compression.encoder.torch_model import torch_forward
from compression.graphs.onnx_graph import largest_difference, probes
from compression.pruning.reconstruction import refit, remove_inputs
from compression.pruning.selection import select
from tests.compression.agents import MAX_TOKENS, SHAPES, tiny_model

TAGGER, CLASSIFIER = TokenClassification(labels=("LOC", "PER")), TextClassification(labels=("a", "b"))


@pytest.mark.parametrize("family", SHAPES)
@settings(max_examples=6)
@given(data=st.data())
def test_a_slimmed_network_answers_as_the_zeroed_one(family: str, data: st.DataObject) -> None:
    model = tiny_model(family, data.draw(st.sampled_from([TAGGER, CLASSIFIER])))
    for block in find_blocks(model):
        heads = torch.tensor(data.draw(st.lists(st.booleans(), min_size=4, max_size=4)))
        units = torch.rand(block.num_units, generator=torch.Generator().manual_seed(1)) > data.draw(st.floats(0, 1))
        remove_inputs(block.attention_output.linear, heads.repeat_interleave(block.head_size))
        remove_inputs(block.ffn_output.linear, units)
    smaller = slim(model)
    gap, _ = largest_difference(torch_forward(model), torch_forward(smaller), probes(300, MAX_TOKENS, seed=1))
    assert gap < 1e-4
    assert num_parameters(smaller) <= num_parameters(model)
    assert all(block.num_heads >= 1 and block.num_units >= 1 for block in find_blocks(smaller))


def test_a_network_without_zeros_stays_as_it_is() -> None:
    model = tiny_model("bert", TAGGER)
    assert num_parameters(slim(model)) == num_parameters(model)


@given(
    layers=st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=16), min_size=1, max_size=6),
    ratio=st.floats(0, 0.999),
    minimum=st.integers(1, 9),
)
def test_every_ratio_leaves_something_in_every_layer(layers: list[list[float]], ratio: float, minimum: int) -> None:
    keeps = select([torch.tensor(layer) for layer in layers], ratio, minimum=minimum)
    assert all(int(keep.sum()) >= min(minimum, len(keep)) for keep in keeps)
    removed = sum(len(keep) - int(keep.sum()) for keep in keeps)
    room = sum(max(0, len(keep) - minimum) for keep in keeps)
    assert removed == min(int(ratio * sum(map(len, layers))), room)


def test_the_least_important_go_first() -> None:
    keeps = select([torch.tensor([3.0, 1.0, 2.0]), torch.tensor([30.0, 10.0, 20.0])], 0.34, minimum=1)
    assert [keep.tolist() for keep in keeps] == [[True, False, True], [True, False, True]]


def test_the_repair_is_the_least_squares_optimum() -> None:
    torch.manual_seed(0)
    mixed = torch.randn(500, 12) @ torch.randn(12, 12)
    linear = torch.nn.Linear(12, 5)
    said = linear(mixed).detach().double()
    with_one = torch.cat([mixed, torch.ones(500, 1)], dim=1).double()
    keep = torch.arange(12) % 3 > 0
    removed = torch.nn.Linear(12, 5)
    removed.load_state_dict(linear.state_dict())
    remove_inputs(removed, keep)
    refit(linear, keep, with_one.T @ with_one)
    kept = torch.cat([mixed[:, keep], torch.ones(500, 1)], dim=1).double().numpy()
    best = kept @ np.linalg.lstsq(kept, said.numpy(), rcond=None)[0]
    error = float(((linear(mixed).double() - said) ** 2).sum().detach())
    assert error < 1.05 * float(((best - said.numpy()) ** 2).sum())
    assert error < 0.9 * float(((removed(mixed).double() - said) ** 2).sum().detach())
    assert torch.all(linear.weight[:, ~keep] == 0)


@pytest.mark.parametrize(
    ("family", "options"),
    [("albert", {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64})],
)
def test_other_architectures_are_refused_by_name_and_left_unslimmed(family: str, options: dict[str, int]) -> None:
    from transformers import AutoConfig, AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_config(AutoConfig.for_model(family, vocab_size=100, **options))
    with pytest.raises(ConfigError, match="AlbertForTokenClassification") as caught:
        find_blocks(model)
    assert "leave the step out" in str(caught.value)
    assert num_parameters(slim(model)) == num_parameters(model)


@pytest.mark.parametrize("family", sorted(SHAPES))
def test_encoders_have_the_modules_that_they_had_in_transformers_5_24(family: str) -> None:
    assert is_prunable(tiny_model(family, TAGGER)), (
        f"transformers {transformers.__version__} builds {family} otherwise than 5.24: adapt compression/encoder/encoder_structure.py"
    )
