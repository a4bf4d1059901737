"""Packs the rows of a graph's word embeddings into blocks of 4-bit weights, which ONNX Runtime unpacks only where a token asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Number of weights with one scale; more lose F1, fewer take more bytes (docs/compression.md)."""
_WORD_BITS, _POSITION_BITS = 4, 8
_FRACTIONS = np.linspace(0.7, 1.0, 7)  # of the largest weight of a block, that the outermost level may stand for
_CHUNK = 4096  # rows that are packed at once
_EPSILON = 1e-12  # ONNX Runtime's of EmbedLayerNormalization
_DOMAIN = "com.microsoft"
_LOOKUPS = {"Gather": (0, 1), "EmbedLayerNormalization": (2, 0)}  # which inputs are the table and the ids


class PackedTable(NamedTuple):
    """A table of embeddings in blocks of integers.

    Attributes:
        integers: uint8 [rows, width * bits / 8], the first weight in the lowest bits; the middle level stands for 0.
        scales: float32 [rows, blocks].
    """

    integers: NDArray[Any]
    scales: NDArray[Any]


def word_embedding_nodes(path: Path) -> list[str]:
    """Names of the nodes that look up a float32 row for each of `input_ids`."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return [node.name for node in _lookups(graph)]


def pack_word_embeddings(path: Path, names: list[str]) -> None:
    """Rewrites a graph so that these nodes look up 4-bit weights (GatherBlockQuantized).

    A table that other nodes use too, as the outputs of a masked language model may, stays for them as it is.

    Args:
        path: The graph, int8 or float32.
        names: Of nodes that `word_embedding_nodes` named and that still are as they were.
    """
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        if node.name not in names:
            nodes.append(node)
        elif node.op_type == "Gather":
            nodes += _lookup(graph, tables[node.input[0]], node.input[1], node.output[0], bits=_WORD_BITS)
        else:
            nodes += _parts(graph, tables, node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    if not any(one.domain == _DOMAIN for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    onnx.save(model, str(path))


def pack_rows(table: NDArray[Any], bits: int) -> PackedTable:
    """Rounds blocks of a float32 table [rows, width], each with the scale that gives the least squared error."""
    parts = [_pack_chunk(table[first : first + _CHUNK], bits) for first in range(0, len(table), _CHUNK)]
    return PackedTable(np.concatenate([one.integers for one in parts]), np.concatenate([one.scales for one in parts]))


def unpack_rows(packed: PackedTable, width: int, bits: int) -> NDArray[Any]:
    """The float32 table [rows, width] that packed rows stand for."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (packed.integers[..., None] >> shifts) & (2**bits - 1)
    whole = levels.reshape(len(levels), -1)[:, :width].astype(np.float32) - 2 ** (bits - 1)
    return np.asarray(whole * np.repeat(packed.scales, BLOCK, axis=1)[:, :width], np.float32)


def _pack_chunk(table: NDArray[Any], bits: int) -> PackedTable:
    rows, width = table.shape
    middle, num_blocks = 2 ** (bits - 1), -(-width // BLOCK)
    blocks = np.zeros((rows, num_blocks * BLOCK), np.float32)
    blocks[:, :width] = table
    blocks = blocks.reshape(rows, num_blocks, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)[..., 0]
    best, least = np.ones_like(largest), np.full_like(largest, np.inf)
    for sign in (-1, 1):  # of the two outermost levels the lower one is the farther from 0
        for fraction in _FRACTIONS:
            scale = (sign * fraction / middle * largest).astype(np.float32)
            error = ((_levels(blocks, scale, middle) * scale[..., None] - blocks) ** 2).sum(axis=2)
            best = np.where((error < least) & (scale != 0), scale, best)
            least = np.minimum(error, least)
    levels = (_levels(blocks, best, middle) + middle).astype(np.uint8).reshape(rows, -1)[:, :width]
    per_byte = 8 // bits
    levels = np.pad(levels, ((0, 0), (0, -width % per_byte)), constant_values=middle).reshape(rows, -1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return PackedTable(np.bitwise_or.reduce(levels << shifts, axis=2).astype(np.uint8), best.astype(np.float32))


def _levels(blocks: NDArray[Any], scale: NDArray[Any], middle: int) -> NDArray[Any]:
    safe = np.where(scale == 0, 1, scale)[..., None]
    return np.asarray(np.clip(np.round(blocks / safe), -middle, middle - 1))


def _lookups(graph: Any) -> list[Any]:
    """Nodes whose table is a float32 matrix and whose indices are `input_ids`, cast or not."""
    import onnx

    tables = {
        one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) == 2
    }  # fmt: skip
    ids = {"input_ids"}
    found = []
    for node in graph.node:  # in topological order
        if node.op_type in ("Cast", "Identity") and node.input[0] in ids:
            ids.add(node.output[0])
        elif node.op_type in _LOOKUPS and _axis(node) == 0:
            table, indices = (node.input[place] for place in _LOOKUPS[node.op_type])
            found += [node] if table in tables and indices in ids else []
    return found


def _axis(node: Any) -> int:
    return next((int(one.i) for one in node.attribute if one.name == "axis"), 0)


def _lookup(graph: Any, table: Any, ids: str, output: str, *, bits: int) -> list[Any]:
    """The nodes that look up packed rows; the packed table is added to the graph."""
    from onnx import helper, numpy_helper

    name, width = table.name, table.dims[1]
    if not any(one.name == f"{name}_int{bits}" for one in graph.initializer):  # DistilBERT looks words up twice
        packed = pack_rows(numpy_helper.to_array(table), bits)
        _add(graph, {f"{name}_int{bits}": packed.integers, f"{name}_scales": packed.scales})
    filled = width * bits % 8 == 0  # else the last byte holds a weight too many
    looked_up = output if filled else f"{output}_filled"
    lookup = helper.make_node(
        "GatherBlockQuantized", [f"{name}_int{bits}", ids, f"{name}_scales"], [looked_up], f"{output}_lookup",
        domain=_DOMAIN, bits=bits, block_size=BLOCK, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    if filled:
        return [lookup]
    bounds = {f"{output}_{key}": np.array([value], np.int64) for key, value in (("from", 0), ("to", width), ("of", -1))}
    _add(graph, bounds)
    return [lookup, helper.make_node("Slice", [looked_up, *bounds], [output], f"{output}_slice")]


def _add(graph: Any, constants: Mapping[str, NDArray[Any]]) -> None:
    from onnx import numpy_helper

    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())


def _parts(graph: Any, tables: Mapping[str, Any], node: Any) -> list[Any]:
    """The parts of EmbedLayerNormalization(ids, segments, word, position, segment, scale, shift, mask, position ids)."""
    from onnx import helper

    ids, segments, word, position, segment, scale, shift, mask, places = [*node.input, "", ""][:9]
    name, (output, lengths, total) = node.name, [*node.output, "", ""][:3]
    made = [] if places else _positions(graph, ids, name)
    made += _lookup(graph, tables[word], ids, f"{name}_word", bits=_WORD_BITS)
    made += _lookup(graph, tables[position], places or f"{name}_places", f"{name}_position", bits=_POSITION_BITS)
    terms = [f"{name}_word", f"{name}_position"]
    if segments:
        made.append(helper.make_node("Gather", [segment, segments], [f"{name}_segment"], f"{name}_segments", axis=0))
        terms.append(f"{name}_segment")
    total = total or f"{name}_sum"
    epsilon = next((one.f for one in node.attribute if one.name == "epsilon"), _EPSILON)
    made.append(helper.make_node("Sum", terms, [total], f"{name}_total"))
    made.append(helper.make_node("LayerNormalization", [total, scale, shift], [output], name, axis=-1, epsilon=epsilon))
    if lengths and mask:
        _add(graph, {f"{name}_axis": np.array([1], np.int64)})
        made.append(helper.make_node("ReduceSum", [mask, f"{name}_axis"], [lengths], f"{name}_lengths", keepdims=0))
    return made


def _positions(graph: Any, ids: str, name: str) -> list[Any]:
    """Nodes that count the tokens of a row from 0: int64 [tokens], `NAME_places`."""
    from onnx import helper

    _add(graph, {f"{name}_first": np.array(0, np.int64), f"{name}_step": np.array(1, np.int64)})
    return [
        helper.make_node("Shape", [ids], [f"{name}_shape"], f"{name}_Shape", start=1, end=2),
        helper.make_node("Squeeze", [f"{name}_shape"], [f"{name}_tokens"], f"{name}_Squeeze"),
        helper.make_node("Range", [f"{name}_first", f"{name}_tokens", f"{name}_step"], [f"{name}_places"], f"{name}_Range"),
    ]  # fmt: skip
