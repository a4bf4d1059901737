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
}


def quantized(directory: Path, weights: Any, *, per_channel: bool) -> Path:
    """The int8 graph of a product, with zeros in one output."""
    weights[:, 3] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "weights"], ["y"], name="product")],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["rows", len(weights)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 16])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    source = directory / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), source)
    TorchScriptExporter().quantize(
        source, directory / "int8.onnx", Quantization(("MatMul",), (), per_channel=per_channel)
    )
    return directory / "int8.onnx"


def answers(path: Path, inputs: Any, entries: dict[str, str]) -> Any:
    options = onnxruntime.SessionOptions()
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(path, options).run(None, {"a": inputs})[0]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_products_are_exact_without_slower_kernels(kind: str, per_channel: bool, tmp_path: Path) -> None:
    weights = WEIGHTS[kind].copy()
    path = quantized(tmp_path, weights, per_channel=per_channel)
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    assert pair_sums(stored["weights_quantized"]).max() <= 128
    for rows in (1, 2, 33):  # one row has kernels of its own
        inputs = RNG.uniform(0.5, 1, (rows, len(weights))).astype(np.float32)
        found = answers(path, inputs, {})
        assert np.array_equal(found, answers(path, inputs, {"session.x64quantprecision": "1"}))
        np.testing.assert_allclose(found, inputs @ weights, atol=0.02 * np.abs(inputs @ np.abs(weights)).max())


def test_the_scale_grows_no_more_than_pairs_ask_for(tmp_path: Path) -> None:
    weights = RNG.normal(size=(384, 16))
    path = quantized(tmp_path, weights, per_channel=True)
    stored = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    used = np.delete(np.arange(16), 3)
    sums = pair_sums(stored["weights_quantized"])[used]
    tops = np.abs(stored["weights_quantized"]).max(axis=0)[used]
    assert ((sums >= 126) | (tops == 127)).all()


def test_pair_sums_are_of_neighbours_with_one_sign() -> None:
    assert pair_sums(np.array([[3, -3, 3], [4, -5, -4], [9, -7, 0]], np.int8)).tolist() == [9, 8, 4]
