"""Converts float32 graphs to float16 and bfloat16 for GPUs, and emulates bfloat16 graphs on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from compression.graphs.onnxruntime_internals import to_float16

Half = Literal["fp16", "bf16"]


def write_half(source: Path, target: Path, precision: Half) -> None:
    """Writes the graph in half precision; inputs and logits keep their types."""
    import onnx

    model = onnx.load(str(source))
    exact = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
    if precision == "bf16":
        _expand_embeddings(model.graph)
    half = to_float16(model)
    if precision == "bf16":
        _to_bfloat16(half.graph, exact)
    onnx.save(half, str(target))


def emulated(path: Path) -> bytes:
    """A bfloat16 graph in float32, with every weight and every result of a node rounded to bfloat16.

    ONNX Runtime has no bfloat16 kernels for the CPU; those for CUDA accumulate in float32 and round results, as here.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    for tensor in _tensors(graph, TensorProto.BFLOAT16):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
    _retarget(graph, TensorProto.BFLOAT16, TensorProto.FLOAT)
    floats = _float_values(model)
    last = {value.name for value in graph.output}
    nodes = []
    for node in graph.node:
        rounded = [name for name in node.output if name in floats - last]
        nodes.append(node)
        for name in rounded:
            exact, half = f"{name}_exact", f"{name}_bfloat16"
            node.output[list(node.output).index(name)] = exact
            nodes.append(helper.make_node("Cast", [exact], [half], to=TensorProto.BFLOAT16))
            nodes.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    serialized: bytes = model.SerializeToString()
    return serialized


def _expand_embeddings(graph: Any) -> None:
    """Replaces EmbedLayerNormalization, which has no bfloat16 kernel for CUDA (onnxruntime 1.31), by nodes of ONNX."""
    import numpy as np
    from onnx import helper, numpy_helper

    fused = next((node for node in graph.node if node.op_type == "EmbedLayerNormalization"), None)
    if fused is None:
        return
    ids, segments, words, positions, kinds, scale, shift, mask, places = [*fused.input, "", ""][:9]
    epsilon = next((one.f for one in fused.attribute if one.name == "epsilon"), 1e-12)
    for name, value in (("embed_zero", [0]), ("embed_one", [1])):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    make = helper.make_node
    nodes = [make("Gather", [words, ids], ["embed_words"])]
    if places:
        nodes.append(make("Gather", [positions, places], ["embed_places"]))
    else:
        nodes += [
            make("Shape", [ids], ["embed_shape"]),
            make("Gather", ["embed_shape", "embed_one"], ["embed_length"]),
            make("Slice", [positions, "embed_zero", "embed_length", "embed_zero"], ["embed_places"]),
        ]
    nodes.append(make("Add", ["embed_words", "embed_places"], ["embed_sum"]))
    if segments:
        nodes.append(make("Gather", [kinds, segments], ["embed_kinds"]))
        nodes.append(make("Add", ["embed_sum", "embed_kinds"], ["embed_whole"]))
    nodes.append(
        make("LayerNormalization", [nodes[-1].output[0], scale, shift], [fused.output[0]], axis=-1, epsilon=epsilon)
    )
    if mask and len(fused.output) > 1:  # how many tokens each row has
        nodes.append(make("ReduceSum", [mask, "embed_one"], [fused.output[1]], keepdims=0))
    place = list(graph.node).index(fused)
    rest = [*graph.node[:place], *nodes, *graph.node[place + 1 :]]
    del graph.node[:]
    graph.node.extend(rest)


def _to_bfloat16(graph: Any, exact: dict[str, Any]) -> None:
    """Turns float16 into bfloat16; weights are rounded once, from their float32 values."""
    import ml_dtypes
    import numpy as np
    from onnx import TensorProto, numpy_helper

    limit = 3.3895314e38  # the largest bfloat16; the smallest float32 of a mask would become -inf
    for tensor in _tensors(graph, TensorProto.FLOAT16):
        values = np.clip(exact.get(tensor.name, numpy_helper.to_array(tensor)), -limit, limit)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(ml_dtypes.bfloat16), tensor.name))
    _retarget(graph, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _tensors(graph: Any, kind: int) -> list[Any]:
    """Weights and constants of a data type."""
    constants = [attribute.t for node in graph.node for attribute in node.attribute if attribute.HasField("t")]
    return [tensor for tensor in [*graph.initializer, *constants] if tensor.data_type == kind]


def _retarget(graph: Any, old: int, new: int) -> None:
    """Changes the target type of casts, and removes the recorded types of intermediate values."""
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == old:
                attribute.i = new
    del graph.value_info[:]


def _float_values(model: Any) -> set[str]:
    """Names of all float32 results of nodes, by the type inference of ONNX Runtime, which covers its own nodes."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    there = {value.name for value in probe.graph.output}
    for name in {name for node in probe.graph.node for name in node.output if name} - there:
        probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {value.name for value in session.get_outputs() if value.type == "tensor(float)"}
