"""Graphs as ONNX Runtime runs them: none of the fused nodes that are slow on CPUs, heads as each layer has them, biases in the products."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.tasks import QuestionAnswering
from agent.tasks.output_decision import OUT_OF_REACH
from compression.encoder.encoder_structure import find_blocks
from compression.encoder.structural_pruning import slim
from compression.encoder.torch_model import input_names, quiet, to_tensors, torch_forward
from compression.exporters import EXPORTERS, Exporter
from compression.graphs.fusion import join_heads
from compression.graphs.onnx_graph import check_graph, graph_forward, largest_difference, open_session, probes
from compression.pruning.pruning_target import zero
from compression.quantization.activation_ranges import CalibrationRule
from compression.quantization.quantizers import write_dynamic, write_static
from tests.compression.agents import SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER
from tests.compression.quantization.test_quantize import AVAILABLE, HOW, singles

SLOW = {"SkipLayerNormalization", "BiasGelu"}
FAMILIES = [
    *(pytest.param("bert", kind, marks=pytest.mark.long if kind == "transformers" else ()) for kind in AVAILABLE),
    *((family, "torchscript") for family in SHAPES if family != "bert"),
]


def as_run(path: Path) -> list[Any]:
    """The nodes of a graph after ONNX Runtime's own optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".as_run.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(onnx.load(options.optimized_model_filepath).graph.node)


def written(directory: Path, family: str, kind: str) -> tuple[Exporter, Path]:
    exporter, path, model = EXPORTERS[kind](), directory / "model.onnx", tiny_model(family, TAGGER)
    for parameter in model.parameters():  # equal ones would be one weight of the graph
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    with quiet():
        exporter.write(model, path, fuse=True)
    assert (
        largest_difference(torch_forward(model), graph_forward(open_session(path, 1)), probes(300, 40, seed=1))[0]
        < 1e-4
    )
    return exporter, path


@pytest.mark.parametrize(("family", "kind"), FAMILIES)
def test_no_node_that_is_slow_on_cpus_is_run(family: str, kind: str, tmp_path: Path) -> None:
    exporter, path = written(tmp_path, family, kind)
    dynamic, static = tmp_path / "dynamic.onnx", tmp_path / "static.onnx"
    write_dynamic(exporter, path, dynamic, HOW)
    write_static(dynamic, path, static, singles(10), CalibrationRule("min_max"))
    for graph in (dynamic, static):
        kinds = [node.op_type for node in as_run(graph)]
        assert not SLOW & set(kinds)
        assert kinds.count("LayerNormalization") >= 4
        assert kinds.count("Gelu") == 2


@pytest.mark.parametrize("family", SHAPES)
def test_products_of_a_small_graph_add_their_biases(family: str, tmp_path: Path) -> None:
    exporter, path = written(tmp_path, family, "torchscript")
    dynamic, static = tmp_path / "dynamic.onnx", tmp_path / "static.onnx"
    write_dynamic(exporter, path, dynamic, HOW)
    write_static(dynamic, path, static, singles(10), CalibrationRule("min_max"))
    nodes = list(onnx.load(static).graph.node)
    products = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
    assert len(products) >= 2 * 3 + 1  # a fused Attention holds the other three of a layer
    assert all(len(node.input) == 7 for node in products)  # the last is the bias


@settings(max_examples=4, deadline=None)
@given(left=st.lists(st.integers(1, 4), min_size=2, max_size=2))
def test_every_layer_says_its_own_number_of_heads(left: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    model = copy.deepcopy(tiny_model("bert", TAGGER))
    for block, heads in zip(find_blocks(model), left, strict=True):
        zero(block, torch.arange(block.num_heads) < heads, torch.ones(block.num_units, dtype=torch.bool))
    path = tmp_path_factory.mktemp("heads") / "model.onnx"
    with quiet():
        EXPORTERS["torchscript"]().write(slim(model), path, fuse=True)
    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Attention"]
    assert [one.i for node in nodes for one in node.attribute if one.name == "num_heads"] == left
    gap, _ = largest_difference(torch_forward(model), graph_forward(open_session(path, 1)), probes(300, 40, seed=1))
    assert gap < 1e-4


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_logits_of_starts_and_ends_become_one_output_that_is_out_of_reach_at_padding(
    family: str, tmp_path: Path
) -> None:
    """What exporters without a wrapper of ours write; the wrapper's own graph says the same."""
    model, path = tiny_model(family, QuestionAnswering()), tmp_path / "two.onnx"
    names = input_names(model)
    example = to_tensors(model, probes(300, 16, seed=0)[2])
    axes = {name: {0: "rows", 1: "tokens"} for name in (*names, "start_logits", "end_logits")}
    with quiet():
        torch.onnx.export(
            model, (), str(path), kwargs=example, input_names=list(names), output_names=["start_logits", "end_logits"],
            dynamic_axes=axes, opset_version=18, dynamo=False,
        )  # fmt: skip
        EXPORTERS["torchscript"]().write(model, tmp_path / "one.onnx", fuse=True)
    join_heads(path)
    join_heads(path)  # a graph with one output stays as it is
    for file in (path, tmp_path / "one.onnx"):
        check_graph(file)
        forward, batches = graph_forward(open_session(file, 1)), probes(300, 40, seed=1)
        assert largest_difference(torch_forward(model), forward, batches)[0] < 1e-4
        assert all(
            (forward(batch).transpose(0, 2, 1)[batch.attention_mask == 0] == OUT_OF_REACH).all() for batch in batches
        )
