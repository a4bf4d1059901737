"""Turns a dynamic int8 graph into a static one: the same integer weights and kernels, with constant scales of activations.

ONNX Runtime's own static quantiser supports neither Attention nor EmbedLayerNormalization, and its QDQ form was no faster
than float32 around them (docs/benchmarks.md); a graph with constant scales runs on the kernels of the dynamic one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_LEVELS = 255  # of an unsigned byte, beside 0


def scaled_tensors(path: Path) -> list[str]:
    """Names of the activations that a dynamic graph quantises at run time."""
    import onnx

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [node.input[0] for node in nodes if node.op_type == "DynamicQuantizeLinear"]


def fix_scales(path: Path, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Rewrites a dynamic int8 graph so that every activation has a constant scale, from its range."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    for index, node in enumerate(graph.node):
        if node.op_type != "DynamicQuantizeLinear":
            continue
        scale, zero = _scale(*ranges[node.input[0]])
        quantized, scale_name, zero_name = node.output
        graph.initializer.append(onnx.numpy_helper.from_array(scale, scale_name))
        graph.initializer.append(onnx.numpy_helper.from_array(zero, zero_name))
        fixed = onnx.helper.make_node("QuantizeLinear", [node.input[0], scale_name, zero_name], [quantized], node.name)
        graph.node[index].CopyFrom(fixed)
    _join_products(graph)
    if not any(one.domain == "com.microsoft" for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(path))


def _scale(low: float, high: float) -> tuple[Any, Any]:
    """Scale and zero point of an unsigned byte, float32 [] and uint8 []; 0.0 is exact, as with DynamicQuantizeLinear."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / _LEVELS) or np.float32(1)
    return np.asarray(scale, np.float32), np.asarray(np.clip(round(-low / float(scale)), 0, _LEVELS), np.uint8)


def _join_products(graph: Any) -> None:
    """Joins MatMulInteger, Cast, Mul and the Add of a bias in one node, which ONNX Runtime does only where scales are not constant."""
    import onnx

    makers = {output: node for node in graph.node for output in node.output}
    biases = _biases(graph)
    gone: list[str] = []
    for index, node in enumerate(graph.node):
        cast = makers.get(node.input[0]) if node.op_type == "Mul" else None
        scales = makers.get(node.input[1]) if cast is not None and cast.op_type == "Cast" else None
        product = makers.get(cast.input[0]) if cast is not None else None
        if cast is None or scales is None or product is None or product.op_type != "MatMulInteger":
            continue
        left, right, left_zero, right_zero = product.input
        left_scale, right_scale = scales.input
        inputs, outputs = [left, right, left_scale, right_scale, left_zero, right_zero], list(node.output)
        if node.output[0] in biases:
            adding, bias = biases[node.output[0]]
            inputs, outputs = [*inputs, bias], list(adding.output)
            adding.output[0] += "_joined"  # to be removed below
            gone += adding.output
        joined = onnx.helper.make_node(
            "MatMulIntegerToFloat", inputs, outputs, name=product.name, domain="com.microsoft"
        )
        gone += [*cast.output, *scales.output, *product.output]
        graph.node[index].CopyFrom(joined)
    for node in [node for node in graph.node if set(node.output) & set(gone)]:
        graph.node.remove(node)


def _biases(graph: Any) -> dict[str, tuple[Any, str]]:
    """Values with a single reader, an Add of a weight vector: that node and the vector's name."""
    vectors = {weight.name for weight in graph.initializer if len(weight.dims) == 1}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for name, (first, *others) in readers.items():
        bias = [other for other in first.input if other != name and other in vectors]
        if not others and first.op_type == "Add" and bias:
            found[name] = first, bias[0]
    return found
