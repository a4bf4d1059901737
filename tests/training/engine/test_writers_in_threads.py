"""Models that write, computed in thread groups: what one pass after the other finds, whatever they drop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.agent.generation.writer_families import FAMILIES, make_family
from tests.training.model.test_attention import batch
from training.engine.engine_config import TrainingEngineConfig, choose_thread_parallel
from training.engine.thread_parallel import WRITING, ThreadParallel
from training.model.attention import Attention
from training.model.cpu_dropout import ThreadRandomness, replace_dropout

_RATES = (
    "dropout", "dropout_rate", "activation_dropout", "attention_dropout", "encoder_layerdrop", "decoder_layerdrop", "layerdrop", "attn_pdrop",
    "resid_pdrop", "embd_pdrop", "hidden_dropout",
)  # fmt: skip


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def writer(directory: Path, name: str, rate: float) -> PreTrainedModel:
    """A model of a family that drops values, attention weights and layers at a rate."""
    shape = FAMILIES[name].config(**FAMILIES[name].shape)
    model = make_family(directory, name, **{key: rate for key in _RATES if hasattr(shape, key)})
    replace_dropout(model)
    return model.train()


def inputs_of(model: PreTrainedModel) -> list[dict[str, Any]]:
    """Two batches: tokens to read, and to write where there is a decoder beside an encoder."""
    found = []
    for lengths in ([9, 7, 3], [8, 2]):
        read: dict[str, Any] = {**batch(lengths), "use_cache": False}
        if model.config.is_encoder_decoder:
            read["decoder_input_ids"] = batch([length + 2 for length in lengths])["input_ids"]
        found.append(read)
    return found


def passed(model: PreTrainedModel, seed: int) -> list[torch.Tensor]:
    """Logits and gradients of both batches, computed side by side."""
    model.zero_grad()
    threads = ThreadParallel(model, None, num_groups=2, context=ThreadRandomness)
    threads.seed(seed)
    drawn = torch.get_rng_state()
    outputs = threads.forward(inputs_of(model))
    torch.stack([(output**2).mean() for (output,) in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(
        torch.get_rng_state(), drawn
    )  # else the groups would share torch's numbers in an order of chance
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    return [*(output.detach() for output in itertools.chain(*outputs)), *gradients]


def test_every_family_may_be_computed_in_thread_groups() -> None:
    assert {family.config.model_type for family in FAMILIES.values()} == WRITING
    for family in WRITING:
        asked = TrainingEngineConfig(), Attention("sdpa", ""), torch.device("cpu"), 4096
        assert choose_thread_parallel(*asked, family) == (2, "")
    assert choose_thread_parallel(*asked, "deberta-v2")[0] is None


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_one_pass_after_the_other(name: str, tmp_path: Path) -> None:
    model = writer(tmp_path / "model", name, 0.0)
    found = passed(model, 0)
    model.zero_grad()
    logits = [model(**inputs).logits for inputs in inputs_of(model)]
    torch.stack([(each**2).mean() for each in logits]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for ours, wanted in zip(found, [*logits, *gradients], strict=True):
        scale = float(wanted.detach().abs().max().clamp(min=1))
        torch.testing.assert_close(ours / scale, wanted.detach() / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_dropped_repeats_with_the_seed_however_the_groups_are_timed(name: str, tmp_path: Path) -> None:
    model = writer(tmp_path / "model", name, 0.3)
    one, again, other = (passed(model, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, again))
    assert not torch.equal(one[0], other[0])
