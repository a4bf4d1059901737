"""Graphs of masked language models compute asked tokens only, say what PyTorch says, and become int8 though embeddings are tied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from agent.batching import Batch
from agent.tasks import MaskedLanguageModelling
from compression.encoder.torch_model import torch_forward
from compression.exporters import EXPORTERS
from compression.graphs.onnx_graph import check_graph, graph_forward, open_session, probes
from compression.steps import QuantizeStep
from tests.compression.agents import MAX_TOKENS, SHAPES, tiny_model

TASK = MaskedLanguageModelling(labels=("word",))
HERE = [kind for kind, found in EXPORTERS.items() if not found.missing()]
# How an exporter writes a product does not depend on the family, nor what leads to the product in a family on the exporter.
FAMILIES = [("bert", kind) for kind in HERE] + [(family, "torchscript") for family in SHAPES if family != "bert"]
PARAMS = [
    pytest.param((family, kind), marks=pytest.mark.long if kind == "transformers" else (), id=f"{family}-{kind}")
    for family, kind in FAMILIES
]


def asked_batches() -> list[Batch]:
    rng = np.random.default_rng(0)
    found = []
    for batch in probes(300, MAX_TOKENS, 0):
        asked = (rng.random(batch.input_ids.shape) < 0.3) & (batch.attention_mask == 1)
        found.append(Batch(batch.input_ids, batch.attention_mask, batch.token_type_ids, asked.astype(np.int64)))
    return found


@pytest.fixture(scope="module", params=PARAMS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """An exporter, a network and its graph."""
    family, kind = request.param
    model, path = tiny_model(family, TASK), tmp_path_factory.mktemp("asked") / "model.onnx"
    EXPORTERS[kind]().write(model, path, fuse=True)
    return kind, model, path


def test_a_graph_says_of_asked_tokens_what_pytorch_says(written: tuple[str, Any, Path]) -> None:
    _, model, path = written
    assert "asked" in check_graph(path)
    network, graph = torch_forward(model), graph_forward(open_session(path, 1))
    for batch in asked_batches():
        ours, theirs = graph(batch), network(batch)
        assert ours.shape == theirs.shape == (int(batch.asked.sum()), 300)
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        whole = Batch(batch.input_ids, batch.attention_mask, batch.token_type_ids)
        np.testing.assert_allclose(graph(whole)[batch.asked == 1], ours, atol=2e-4)


@pytest.mark.parametrize("bits", [8, 4])
def test_tied_embeddings_and_outputs_become_int8_in_a_graph_that_opens(
    written: tuple[str, Any, Path], bits: Any, tmp_path: Path
) -> None:
    kind, model, path = written
    exporter, small = EXPORTERS[kind](), tmp_path / "model.int8.onnx"
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    exporter.quantize(path, small, QuantizeStep(embedding_bits=bits).quantization(path))
    graph = graph_forward(open_session(small, 1))
    exact = graph_forward(open_session(path, 1))
    for batch in asked_batches():
        gap = np.abs(graph(batch) - exact(batch))
        assert gap.mean() < {8: 0.1, 4: 0.3}[bits] * np.abs(exact(batch)).mean() + 1e-6 if gap.size else True
    whole = {
        weight.name
        for weight in onnx.load(str(small)).graph.initializer
        if weight.data_type == onnx.TensorProto.FLOAT
        and len(weight.dims) == 2
        and 300 in weight.dims
        and min(weight.dims) > 1
    }
    assert not whole
