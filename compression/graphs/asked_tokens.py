"""Has a graph compute the product with a whole vocabulary for the tokens that it is asked about only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compression.graphs.onnx_graph import ASKED, OUTPUT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul")


def ask_tokens(path: Path, model: PreTrainedModel) -> None:
    """Gives the graph of a masked language model an input `asked`, int64 [rows, tokens], and logits of the tokens where it is 1, [asked, sub-words].

    The vocabulary's matrix becomes a weight of its own: the embedding table, which it often is in the model, cannot become int8 where both
    use one weight (ONNX Runtime then writes a graph that does not open).
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    whole = onnx.load(str(path))
    graph = whole.graph
    decoder: Any = model.get_output_embeddings()
    weight = decoder.weight.detach().float().numpy().T  # [width, sub-words]
    hidden = _product_input(graph)
    constants = {
        "asked_flat_shape": np.array([-1], np.int64), "asked_row_shape": np.array([-1, len(weight)], np.int64),
        "asked_axis": np.array([0], np.int64), "vocabulary_weight": np.ascontiguousarray(weight),
    }  # fmt: skip
    product = OUTPUT if decoder.bias is None else "vocabulary_product"
    nodes = [
        helper.make_node("Reshape", [ASKED, "asked_flat_shape"], ["asked_flat"], "asked/Reshape"),
        helper.make_node("NonZero", ["asked_flat"], ["asked_places"], "asked/NonZero"),
        helper.make_node("Squeeze", ["asked_places", "asked_axis"], ["asked_numbers"], "asked/Squeeze"),
        helper.make_node("Reshape", [hidden, "asked_row_shape"], ["asked_tokens"], "asked/Tokens"),
        helper.make_node("Gather", ["asked_tokens", "asked_numbers"], ["asked_rows"], "asked/Gather", axis=0),
        helper.make_node("MatMul", ["asked_rows", "vocabulary_weight"], [product], "vocabulary/MatMul"),
    ]
    if decoder.bias is not None:
        constants["vocabulary_bias"] = decoder.bias.detach().float().numpy()
        nodes.append(helper.make_node("Add", [product, "vocabulary_bias"], [OUTPUT], "vocabulary/Add"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["asked", weight.shape[1]]))
    shape = ["rows", "tokens"]
    graph.input.append(helper.make_tensor_value_info(ASKED, TensorProto.INT64, shape))
    for node in [node for node in graph.node if OUTPUT in node.output]:
        graph.node.remove(node)
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    _remove_unused(graph)
    onnx.save(whole, str(path))


def _product_input(graph: Any) -> str:
    """The tensor that is multiplied with the vocabulary: the input of the last product before the logits."""
    made_by = {name: node for node in graph.node for name in node.output}
    node = made_by[OUTPUT]
    while node.op_type not in _PRODUCTS:
        node = next(made_by[name] for name in node.input if name in made_by)
    return str(node.input[0])


def _remove_unused(graph: Any) -> None:
    """Removes nodes and weights that no output depends on."""
    wanted, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):  # in topological order
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
    nodes = list(reversed(kept))
    weights = [weight for weight in graph.initializer if weight.name in wanted]
    for field, values in ((graph.node, nodes), (graph.initializer, weights)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    del graph.value_info[:]
