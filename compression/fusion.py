"""Fuses nodes of an exported encoder into ONNX Runtime's own, whatever number of heads each layer has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression.layout import find_blocks, is_prunable

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fuse_graph(path: Path, model: PreTrainedModel) -> None:
    """Rewrites a file with its fused graph. Architectures that ONNX Runtime's optimizer does not know stay as they are."""
    from onnxruntime.transformers.optimizer import optimize_model

    if not is_prunable(model):
        return
    block = find_blocks(model)[0]
    width = model.config.hidden_size
    fused = optimize_model(
        str(path), model_type="bert", num_heads=width // block.head_size, hidden_size=width, opt_level=0
    )
    fused.save_model_to_file(str(path))
    correct_heads(path, model)


def correct_heads(path: Path, model: PreTrainedModel) -> None:
    """Sets the number of heads of every fused Attention node by its own weights.

    The optimizer takes one number for all layers from the configuration, which pruning has made untrue.
    """
    import onnx

    if not is_prunable(model):
        return
    head_size = find_blocks(model)[0].head_size
    graph = onnx.load(str(path))
    shapes = {weight.name: tuple(weight.dims) for weight in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Attention" and node.domain == "com.microsoft":
            _set(
                node, "num_heads", shapes[node.input[1]][1] // 3 // head_size
            )  # weight: [width, 3 * heads * head_size]
    onnx.save(graph, str(path))


def tidy_graph(path: Path) -> None:
    """Drops traces of the export, and joins weights that the graph would concatenate anew in every run: only a weight in one piece can become int8.

    transformers' fusion leaves query, key and value of each Attention node so.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    weights = {weight.name: weight for weight in model.graph.initializer}
    joins = [node for node in model.graph.node if node.op_type == "Concat" and set(node.input) <= set(weights)]
    for node in joins:
        parts = [numpy_helper.to_array(weights[name]) for name in node.input]
        joined = np.concatenate(parts, axis=next(one.i for one in node.attribute if one.name == "axis"))
        model.graph.initializer.append(numpy_helper.from_array(joined, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for name in sorted({name for node in joins for name in node.input} - used):
        model.graph.initializer.remove(weights[name])
    for node in model.graph.node:  # stack traces with paths of this machine, larger than a small agent's weights
        del node.metadata_props[:]
    onnx.save(model, str(path))


def _set(node: Any, name: str, value: int) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = value
