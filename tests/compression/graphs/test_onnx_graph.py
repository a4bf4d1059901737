"""Sessions of compression's gate compute int8 products exactly on every CPU, as served ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compression.graphs.onnx_graph import open_session


def test_int8_products_do_not_overflow(tmp_path: Path) -> None:
    """Without VNNI, pairs of the largest products would not fit into 16 bits: 255 * 127 * 2 > 32,767."""
    weights = np.full((64, 16), 127, np.int8)
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.float32(1), "scale"),
        numpy_helper.from_array(np.uint8(0), "a_zero"),
        numpy_helper.from_array(np.zeros((), np.int8), "b_zero"),
        numpy_helper.from_array(np.float32(2.0**14), "y_scale"),
    ]
    inputs = ["a", "scale", "a_zero", "weights", "scale", "b_zero", "y_scale", "a_zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", inputs, ["y"])],
        "products",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4, 16])],
        constants,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "products.onnx"
    )
    session = open_session(tmp_path / "products.onnx", threads=1, precision="int8")
    (found,) = session.run(None, {"a": np.full((4, 64), 255, np.uint8)})
    assert np.array_equal(found, np.full((4, 16), round(255 * 127 * 64 / 2**14)))
