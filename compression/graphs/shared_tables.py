"""Gives products their own copy of an embedding table: ONNX Runtime's quantiser turns the weight of a Gemm over for all nodes that read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PRODUCTS = ("MatMul", "Gemm")
_TABLES = {"Gather": slice(0, 1), "EmbedLayerNormalization": slice(2, 5)}  # which inputs are tables


@contextmanager
def without_shared_tables(path: Path) -> Iterator[Path]:
    """Yields the graph, or a copy of it for as long as the context lasts, in which no node looks up rows of a product's weight."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    tables = {name for node in graph.node if node.op_type in _TABLES for name in node.input[_TABLES[node.op_type]]}
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name in tables}
    shared = [node for node in graph.node if node.op_type in _PRODUCTS and node.input[1] in weights]
    if not shared:
        yield path
        return
    for node in shared:
        weight = graph.initializer.add()
        weight.CopyFrom(weights[node.input[1]])
        weight.name = node.input[1] = f"{node.input[1]}_of_{node.name}"
    copy = path.with_suffix(".unshared.onnx")
    onnx.save(model, str(copy))
    try:
        yield copy
    finally:
        copy.unlink()
