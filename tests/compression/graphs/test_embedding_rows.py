"""Tables in 4-bit blocks: ONNX Runtime reads what was packed, no rounding is worse than the plain one, and graphs say what PyTorch says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compression.encoder.torch_model import quiet, torch_forward
from compression.exporters import EXPORTERS
from compression.graphs.embedding_rows import BLOCK, pack_rows, pack_word_embeddings, unpack_rows, word_embedding_nodes
from compression.graphs.onnx_graph import check_graph, graph_forward, open_session, probes
from compression.quantization.quantizers import write_dynamic, write_int4
from compression.steps import QuantizeStep
from tests.compression.agents import MAX_TOKENS, SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER

EXPORTER = EXPORTERS["torchscript"]()
WIDTHS = (1, 7, 16, 31, 32, 33, 64, 100)


def table(rows: int, width: int, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
def test_onnx_runtime_looks_up_the_rows_that_were_packed(width: int, tmp_path: Path) -> None:
    rows, path = table(20, width), tmp_path / "lookup.onnx"
    node = helper.make_node("Gather", ["rows", "input_ids"], ["found"], "lookup", axis=0)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "tokens"])
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, ["texts", "tokens", width])
    graph = helper.make_graph([node], "lookup", [ids], [found], [numpy_helper.from_array(rows, "rows")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    pack_word_embeddings(path, word_embedding_nodes(path))
    onnx.checker.check_model(str(path))
    asked = np.array([[0, 19, 3], [7, 7, 1]])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(
        session.run(["found"], {"input_ids": asked})[0], unpack_rows(pack_rows(rows, 4), width, 4)[asked]
    )


@settings(max_examples=30, deadline=None)
@given(width=st.sampled_from(WIDTHS), bits=st.sampled_from((4, 8)), seed=st.integers(0, 99), power=st.integers(-6, 6))
def test_no_block_is_rounded_worse_than_by_its_largest_weight(width: int, bits: int, seed: int, power: int) -> None:
    rows = table(5, width, seed) * np.float32(10.0**power)
    filled = np.pad(rows, ((0, 0), (0, -width % BLOCK))).reshape(5, -1, BLOCK).astype(np.float64)
    scale = np.abs(filled).max(axis=2, keepdims=True) / 2 ** (bits - 1)  # of whole levels on either side but one
    plain = np.clip(np.round(filled / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
    ours = np.pad(unpack_rows(pack_rows(rows, bits), width, bits), ((0, 0), (0, -width % BLOCK)))
    errors = [((one.reshape(filled.shape) - filled) ** 2).sum(axis=2) for one in (ours, plain)]
    assert (errors[0] <= errors[1] * (1 + 1e-4) + 1e-30).all()


def test_rows_of_zeros_stay_zero() -> None:
    rows = table(3, 40)
    rows[1] = 0
    found = unpack_rows(pack_rows(rows, 4), 40, 4)
    assert not found[1].any()
    assert found[0].any()


@pytest.fixture(scope="module", params=SHAPES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model, path = tiny_model(request.param, TAGGER), tmp_path_factory.mktemp("rows") / "model.onnx"
    with quiet():
        EXPORTER.write(model, path, fuse=True)
    return model, path


def kinds_of(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_a_graph_with_packed_words_says_what_pytorch_says_with_their_values(
    written: tuple[Any, Path], tmp_path: Path
) -> None:
    model, path = written
    packed = tmp_path / "packed.onnx"
    packed.write_bytes(path.read_bytes())
    pack_word_embeddings(packed, word_embedding_nodes(packed))
    check_graph(packed)
    tables = {"word_embeddings.weight": 4} | (
        {"position_embeddings.weight": 8} if "EmbedLayerNormalization" in kinds_of(path) else {}
    )
    own = {name: weight.clone() for name, weight in model.state_dict().items()}
    rounded = dict(own)
    for name, weight in own.items():
        for suffix, bits in tables.items():
            if name.endswith(suffix):
                rows = weight.numpy()
                rounded[name] = torch.from_numpy(unpack_rows(pack_rows(rows, bits), rows.shape[1], bits))
    assert any((rounded[name] != own[name]).any() for name in own)
    try:
        model.load_state_dict(rounded)
        said, expected = graph_forward(open_session(packed, 1)), torch_forward(model)
        for batch in probes(300, MAX_TOKENS, seed=4):
            mask = batch.attention_mask.astype(bool)
            np.testing.assert_allclose(said(batch)[mask], expected(batch)[mask], atol=5e-4)
    finally:
        model.load_state_dict(own)


@pytest.mark.parametrize("write", [write_dynamic, write_int4])
def test_every_variant_looks_up_4_bits_and_is_smaller(written: tuple[Any, Path], write: Any, tmp_path: Path) -> None:
    _, path = written
    sizes = {}
    for bits in (8, 4):
        target = tmp_path / f"{bits}.onnx"
        write(EXPORTER, path, target, QuantizeStep(embedding_bits=bits).quantization(path))
        check_graph(target)
        sizes[bits] = sum(
            int(np.prod(one.dims)) * (4 if one.data_type == TensorProto.FLOAT else 1)
            for one in onnx.load(target).graph.initializer
        )
    nodes = [node for node in onnx.load(tmp_path / "4.onnx").graph.node if node.op_type == "GatherBlockQuantized"]
    assert {one.i for one in nodes[0].attribute if one.name == "bits"} == {4}
    assert sizes[4] < sizes[8]


def test_a_node_that_is_excluded_keeps_its_float32_table(written: tuple[Any, Path], tmp_path: Path) -> None:
    _, path = written
    names = word_embedding_nodes(path)
    options = QuantizeStep(embedding_bits=4, exclude=tuple(names)).quantization(path)
    write_dynamic(EXPORTER, path, tmp_path / "out.onnx", options)
    assert word_embedding_nodes(tmp_path / "out.onnx") == names


@pytest.mark.parametrize("bits", [8, 4])
def test_a_table_of_words_that_a_gemm_multiplies_with_too_becomes_int8_for_both(bits: Any, tmp_path: Path) -> None:
    """Of one initializer that a Gather and a Gemm read, ONNX Runtime's quantiser turns the rows over for both."""
    rows, path = table(32, 32), tmp_path / "tied.onnx"
    nodes = [
        helper.make_node("Gather", ["rows", "input_ids"], ["words"], "lookup", axis=0),
        helper.make_node("ReduceMean", ["words", "axis"], ["mean"], "mean", keepdims=0),
        helper.make_node("Gemm", ["mean", "rows"], ["logits"], "outputs", transB=1),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "tokens"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["texts", 32])
    constants = [numpy_helper.from_array(rows, "rows"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "tied", [ids], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    small = tmp_path / "small.onnx"
    EXPORTER.quantize(path, small, QuantizeStep(embedding_bits=bits).quantization(path))
    check_graph(small)
    assert not [one.name for one in onnx.load(small).graph.initializer if one.name == "rows"]
    asked = {"input_ids": np.arange(32).reshape(4, 8)}
    said = open_session(small, 1).run(["logits"], asked)[0]
    known = unpack_rows(pack_rows(rows, 4), 32, 4) if bits == 4 else rows
    exact = known[asked["input_ids"]].mean(axis=1) @ rows.T
    assert np.abs(said - exact).max() < 0.05 * np.abs(exact).max()
    assert not [file.name for file in tmp_path.iterdir() if file not in (path, small)]
