"""Low rank: stock models hold the product, graphs hold two thinner ones, both answer alike; nothing is cut that gets dearer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.errors import ConfigError
from compression.encoder.encoder_structure import find_blocks
from compression.encoder.factorise import (
    FactorisedEmbedding,
    FactorisedLinear,
    Spectrum,
    low_rank_factors,
    ranks_within,
    truncate,
)
from compression.encoder.structural_pruning import num_parameters, slim
from compression.encoder.torch_model import load_model, torch_forward
from compression.exporters import EXPORTERS
from compression.graphs.onnx_graph import largest_difference, probes
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.steps import LowRankStep
from tests.compression.agents import MAX_TOKENS, SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER
from tests.compression.pipeline.test_pipeline import check, run
from tests.compression.steps.test_shrink import state_of

USUAL = ["ffn_input", "ffn_output", "embeddings"]
ALL = ["query", "key", "value", "attention_output", "ffn_input", "ffn_output", "embeddings"]


@pytest.mark.parametrize("family", SHAPES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_split_network_answers_as_the_one_that_holds_the_products(family: str, data: st.DataObject) -> None:
    model = tiny_model(family, TAGGER)
    for block in find_blocks(model):
        for slot in (*block.projections, block.attention_output, block.ffn_input, block.ffn_output):
            slot.linear.weight.data = _of_rank(slot.linear.weight.data, data.draw(st.integers(1, 32)))
        block.ffn_output.linear.weight.data[:, : data.draw(st.integers(0, 95))] = 0  # pruned as well
    table = model.get_input_embeddings()
    table.weight.data = _of_rank(table.weight.data, data.draw(st.integers(1, 32)))
    smaller = slim(model)
    gap, _ = largest_difference(torch_forward(model), torch_forward(smaller), probes(300, MAX_TOKENS, seed=1))
    assert gap < 1e-3
    assert num_parameters(smaller) <= num_parameters(model)
    again = slim(smaller)
    assert num_parameters(again) == num_parameters(smaller)


def _of_rank(weight: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), rank=st.integers(1, 40))
def test_a_weight_is_split_exactly_where_that_is_smaller(rows: int, columns: int, rank: int) -> None:
    torch.manual_seed(rows * 41 + columns)
    rank = min(rank, rows, columns)
    weight = torch.randn(rows, rank) @ torch.randn(rank, columns)
    parts = low_rank_factors(weight)
    assert (parts is not None) == (rank * (rows + columns) < rows * columns)
    if parts:
        assert [tuple(part.shape) for part in parts] == [(rows, rank), (rank, columns)]
        assert float((parts[0] @ parts[1] - weight).abs().max()) < 1e-3


@given(rank=st.integers(1, 12))
def test_a_cut_is_the_nearest_for_the_inputs_that_were_seen(rank: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(400, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
    weight = torch.randn(12, 20)
    outputs = inputs @ weight.double().T
    spectrum = Spectrum.of(weight, outputs.T @ outputs)
    error = (outputs - inputs @ truncate(weight, spectrum, rank).double().T).norm() ** 2
    s = torch.linalg.svdvals(outputs)
    assert float(error) == pytest.approx(float((s[rank:] ** 2).sum()), rel=1e-3, abs=1e-3)
    assert 1 - spectrum.kept(rank) == pytest.approx(float(error / outputs.norm() ** 2), rel=1e-3, abs=1e-6)
    plain = _of_rank(weight, rank).double()  # without a look at the inputs
    assert error <= (outputs - inputs @ plain.T).norm() ** 2 * (1 + 1e-6)


@given(ratio=st.floats(0.01, 0.99), seed=st.integers(0, 50))
def test_ranks_stay_within_the_budget(ratio: float, seed: int) -> None:
    torch.manual_seed(seed)
    weights = [torch.randn(*shape) for shape in ((16, 48), (48, 16), (32, 32))]
    spectra = [Spectrum.of(one, (one @ one.T).double()) for one in weights]
    ranks = ranks_within(spectra, ratio)
    size = sum(min(rank * sum(one.shape), one.numel()) for rank, one in zip(ranks, weights, strict=True))
    least = sum(sum(one.shape) for one in weights)
    assert size <= max(ratio * sum(one.numel() for one in weights), least)
    assert all(rank >= 1 for rank in ranks)


def test_what_the_texts_never_use_goes_without_a_difference(tagger: Path) -> None:
    model = load_model(Bundle.load(tagger))
    for block in find_blocks(model):
        block.ffn_output.linear.weight.data = _of_rank(block.ffn_output.linear.weight.data, 6)
    reference = torch_forward(copy.deepcopy(model))
    state = state_of(tagger, model)
    LowRankStep(matrices=("ffn_output",), energy=1 - 1e-9).run(state)
    gap, _ = largest_difference(reference, torch_forward(state.model), probes(60, MAX_TOKENS, seed=2))
    assert gap < 1e-3
    assert state.notes[0] == "low_rank: ffn_output 6 of 32 (100.0%), 6 of 32 (100.0%)"


def test_what_would_get_dearer_stays_whole_and_the_report_says_so(tagger: Path) -> None:
    model = load_model(Bundle.load(tagger))
    before = copy.deepcopy(model.state_dict())
    state = state_of(tagger, model)
    LowRankStep(matrices=("query", "ffn_input"), energy=1 - 1e-12).run(state)
    assert state.notes[0] == "low_rank: query whole, whole; ffn_input whole, whole"
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("exporter", "chosen"),
    [
        *(
            pytest.param(kind, ALL, marks=pytest.mark.long if kind == "transformers" else ())
            for kind, one in EXPORTERS.items()
            if not one.missing()
        ),
        ("torchscript", USUAL),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} matrices",
)
def test_graphs_hold_two_products_and_agree_with_the_stock_model(
    tagger: Path, tmp_path: Path, exporter: str, chosen: list[str]
) -> None:
    steps: list[Any] = [
        {"kind": "prune", "head_ratio": 0.2, "ffn_ratio": 0.2},
        {"kind": "low_rank", "matrices": chosen, "ratio": 0.4},
        {"kind": "export", "exporter": exporter},
        "quantize",
    ]
    report = run(tagger, tmp_path / "out", steps)
    bundle = check(tmp_path / "out", report, tagger)
    original, stock, fp32, _ = report.model_rows
    assert fp32.parameters < original.parameters
    floats = sum(
        np.prod(one.dims)
        for one in onnx.load(tmp_path / "out/model.onnx").graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT
    )
    assert floats < 1.1 * fp32.parameters
    smaller = slim(load_model(bundle))
    assert isinstance(smaller.get_input_embeddings(), FactorisedEmbedding)
    assert any(isinstance(block.ffn_input.linear, FactorisedLinear) for block in find_blocks(smaller))
    assert num_parameters(smaller) == fp32.parameters
    assert stock.score == pytest.approx(fp32.score, abs=1e-6)


def test_both_measures_at_once_are_refused_and_other_architectures_by_name() -> None:
    step = {"kind": "low_rank", "ratio": 0.5, "energy": 0.9}
    with pytest.raises(ConfigError, match="give ratio or energy, not both"):
        from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": [step, "verify"]})
    from transformers import AutoConfig, AutoModelForTokenClassification

    albert = AutoModelForTokenClassification.from_config(
        AutoConfig.for_model("albert", vocab_size=100, embedding_size=16, hidden_size=32, num_attention_heads=4, intermediate_size=64)
    )  # fmt: skip
    with pytest.raises(ConfigError, match="does not know the matrices of a AlbertForTokenClassification"):
        LowRankStep()._chosen(albert)
