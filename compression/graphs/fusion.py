"""Fuses nodes of an exported encoder into ONNX Runtime's own, and splits fused nodes that are slow on CPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.tasks.output_decision import OUT_OF_REACH
from compression.encoder.encoder_structure import find_blocks, is_prunable
from compression.graphs.onnx_graph import OUTPUT
from compression.graphs.onnxruntime_internals import fuse_bert

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fuse_graph(path: Path, model: PreTrainedModel) -> None:
    """Fuses a graph in place; one of an architecture that ONNX Runtime's optimizer does not support stays as it is."""
    if not is_prunable(model):
        return
    block = find_blocks(model)[0]
    width = model.config.hidden_size
    fuse_bert(path, num_heads=width // block.head_size, hidden_size=width)
    correct_heads(path, model)


def unfuse_slow_nodes(path: Path) -> None:
    """Splits fused nodes whose CPU kernels are slower than those of their parts (ONNX Runtime 1.31; times in docs/benchmarks.md).

    SkipLayerNormalization takes six times as long as a sum and LayerNormalization. The sum is a Sum, since ONNX Runtime
    fuses an Add again when it loads the graph. BiasGelu is slower than Gelu, and keeps the int8 product before it from adding
    the bias at no cost.
    """
    import onnx

    whole = onnx.load(str(path))
    graph = whole.graph
    parts = {"SkipLayerNormalization": _sum_and_norm, "BiasGelu": _sum_and_gelu}
    nodes: list[Any] = []
    for node in graph.node:
        nodes += parts[node.op_type](node) if node.domain == "com.microsoft" and node.op_type in parts else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    _keep_sums(graph)
    onnx.save(whole, str(path))


def join_heads(path: Path) -> None:
    """Gives a graph with logits of starts and of ends one output `logits`, [rows, 2, tokens], out of reach at padding; others stay."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    heads = [output.name for output in graph.output]
    if heads != ["start_logits", "end_logits"]:
        return
    constants = {"join_axis": np.array([1], np.int64), "join_zero": np.array(0, np.int64),
                 "join_low": np.array(OUT_OF_REACH, np.float32)}  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            *(helper.make_node("Unsqueeze", [head, "join_axis"], [f"{head}_row"]) for head in heads),
            helper.make_node("Concat", [f"{head}_row" for head in heads], ["join_both"], axis=1),
            helper.make_node("Unsqueeze", ["attention_mask", "join_axis"], ["join_mask"]),
            helper.make_node("Equal", ["join_mask", "join_zero"], ["join_padding"]),
            helper.make_node("Where", ["join_padding", "join_low", "join_both"], [OUTPUT]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["rows", len(heads), "tokens"]))
    onnx.save(model, str(path))


def correct_heads(path: Path, model: PreTrainedModel) -> None:
    """Sets the number of heads of every fused Attention node by its weights.

    The optimizer takes one number for all layers from the configuration; after pruning layers differ.
    """
    import onnx

    if not is_prunable(model):
        return
    head_size = find_blocks(model)[0].head_size
    graph = onnx.load(str(path))
    shapes = {weight.name: tuple(weight.dims) for weight in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Attention" and node.domain == "com.microsoft":
            width = shapes[node.input[1]][1]  # of the weight, [hidden_size, 3 * heads * head_size]
            _set(node, "num_heads", width // 3 // head_size)
    onnx.save(graph, str(path))


def tidy_graph(path: Path) -> None:
    """Joins weights that the graph concatenates in every run, and removes metadata of the export.

    transformers' fusion leaves query, key and value of each Attention node as separate weights; only a joined one can become
    int8.
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
    for node in model.graph.node:  # stack traces with paths of this machine
        del node.metadata_props[:]
    onnx.save(model, str(path))


def _sum_and_norm(node: Any) -> list[Any]:
    """The parts of SkipLayerNormalization(input, skip, scale, shift, bias)."""
    from onnx import helper

    one, other, scale, shift, bias = [*node.input, ""][:5]
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-12)
    total = node.output[3] if len(node.output) > 3 else f"{node.name}_sum"
    made = []
    if bias:
        made.append(helper.make_node("Add", [one, bias], [f"{node.name}_biased"], f"{node.name}_bias"))
        one = f"{node.name}_biased"
    return [
        *made,
        helper.make_node("Add", [one, other], [total], f"{node.name}_add"),
        helper.make_node(
            "LayerNormalization", [total, scale, shift], node.output[:1], node.name, axis=-1, epsilon=epsilon
        ),
    ]


def _sum_and_gelu(node: Any) -> list[Any]:
    from onnx import helper

    total = f"{node.name}_sum"
    return [
        helper.make_node("Add", node.input, [total], f"{node.name}_bias"),
        helper.make_node("Gelu", [total], node.output, node.name, domain="com.microsoft"),
    ]


def _keep_sums(graph: Any) -> None:
    """Turns each Add whose output LayerNormalization reads into a Sum."""
    read = {node.input[0] for node in graph.node if node.op_type == "LayerNormalization"}
    for node in graph.node:
        if node.op_type == "Add" and node.output[0] in read:
            node.op_type = "Sum"


def _set(node: Any, name: str, value: int) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = value
