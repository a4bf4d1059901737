"""Int8 products are exact on every CPU without slower kernels, as pairs of them fit into 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compression.exporters import Quantization
from compression.exporters.torchscript import TorchScriptExporter
from compression.graphs.pair_sums import pair_sums

RNG = np.random.default_rng(0)
# Of neighbouring weights of one output: all at the limit, which overflows most; of one sign; of both signs; an odd number of them.
WEIGHTS = {
    "largest": np.ones((64, 16)),
    "negative": -np.abs(RNG.normal(size=(64, 16))),
    "trained": RNG.normal(size=(64, 16)),
    "odd": RNG.normal(size=(63, 16)),
    "square": RNG.normal(size=(32, 32)),
    "two outputs": RNG.normal(size=(32, 2)),
}


def quantized(directory: Path, weights: Any, *, per_channel: bool, gemm: bool = False) -> Path:
    """The int8 graph of a product, with zeros in one output; a Gemm holds its weights turned over, as heads of classifiers do."""
    weights[:, -1] = 0
    node = helper.make_node("MatMul", ["a", "weights"], ["y"], name="product")
    if gemm:
        node = helper.make_node("Gemm", ["a", "weights", "bias"], ["y"], name="product", transB=1)
    stored = (weights.T if gemm else weights).astype(np.float32)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["rows", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", weights.shape[1]])],
        [
            numpy_helper.from_array(stored, "weights"),
            numpy_helper.from_array(np.zeros(weights.shape[1], np.float32), "bias"),
        ],
    )
    source = directory / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), source)
    options = Quantization(("MatMul", "Gemm"), (), per_channel=per_channel)
    TorchScriptExporter().quantize(source, directory / "int8.onnx", options)
    return directory / "int8.onnx"


def weights_of(path: Path) -> Any:
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    (name,) = {node.input[1] for node in onnx.load(path).graph.node if node.op_type == "MatMulInteger"}
    return stored[name]


def answers(path: Path, inputs: Any, entries: dict[str, str]) -> Any:
    options = onnxruntime.SessionOptions()
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(path, options).run(None, {"a": inputs})[0]


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_products_are_exact_without_slower_kernels(kind: str, per_channel: bool, gemm: bool, tmp_path: Path) -> None:
    weights = WEIGHTS[kind].copy()
    path = quantized(tmp_path, weights, per_channel=per_channel, gemm=gemm)
    assert pair_sums(weights_of(path)).max() <= 128
    for rows in (1, 2, 33):  # one row has kernels of its own
        inputs = RNG.uniform(0.5, 1, (rows, len(weights))).astype(np.float32)
        found = answers(path, inputs, {})
        assert np.array_equal(found, answers(path, inputs, {"session.x64quantprecision": "1"}))
        np.testing.assert_allclose(found, inputs @ weights, atol=0.02 * np.abs(inputs @ np.abs(weights)).max())


def test_the_scale_grows_no_more_than_pairs_ask_for(tmp_path: Path) -> None:
    weights = RNG.normal(size=(384, 16))
    whole = weights_of(quantized(tmp_path, weights, per_channel=True))[:, :-1]
    sums, tops = pair_sums(whole), np.abs(whole).max(axis=0)
    assert ((sums >= 126) | (tops == 127)).all()


def test_pair_sums_are_of_neighbours_with_one_sign() -> None:
    assert pair_sums(np.array([[3, -3, 3], [4, -5, -4], [9, -7, 0]], np.int8)).tolist() == [9, 8, 4]
