"""Rescales int8 weights so that CPUs without VNNI add products in pairs without overflow, at full speed and with the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGEST = 127  # sum of two weights of one sign: 1 more by rounding, times 255, is below 2^15
_PRODUCTS = ("MatMulInteger", "QAttention")  # their second input holds the weights, [inputs, outputs]


def fit_pair_sums(path: Path, source: Path) -> None:
    """Rewrites the weights of a dynamic int8 graph and their scales.

    AVX2 and AVX-512 without VNNI multiply unsigned bytes with signed ones and add each pair of products in 16 bits (`vpmaddubsw`),
    which overflow where two neighbouring weights of one output are large and have one sign. A scale just large enough rules that out
    for every input: at most twice the usual one, which is what 7-bit weights take for every output.

    Args:
        path: As ONNX Runtime's quantiser wrote it: weights `NAME_quantized`, int8 and symmetric, with scales `NAME_scale`.
        source: The float32 graph that it was made from.
    """
    import onnx

    model = onnx.load(str(path))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    given = {tensor.name: tensor for tensor in onnx.load(str(source)).graph.initializer}
    for name in {node.input[1] for node in model.graph.node if node.op_type in _PRODUCTS} & set(stored):
        original = name.removesuffix("_quantized")
        small, old = stored[name], stored[f"{original}_scale"]
        scale = onnx.numpy_helper.to_array(old)
        exact = onnx.numpy_helper.to_array(given[original]) if original in given else None
        weights = _unquantized(onnx.numpy_helper.to_array(small), scale, exact)
        new = np.maximum(scale, _smallest_scale(weights, per_channel=scale.size > 1).reshape(scale.shape))
        whole = np.clip(np.round(weights / new), -_LARGEST, _LARGEST).astype(np.int8)
        small.CopyFrom(onnx.numpy_helper.from_array(whole, name))
        old.CopyFrom(onnx.numpy_helper.from_array(new.astype(np.float32), old.name))
    onnx.save(model, str(path))


def pair_sums(weights: NDArray[Any]) -> NDArray[Any]:
    """The largest sum of two neighbouring weights of one sign, as a magnitude: [inputs, outputs] to [outputs]."""
    padded = np.concatenate([weights, np.zeros((len(weights) % 2, weights.shape[1]), weights.dtype)])
    pairs = padded.reshape(-1, 2, weights.shape[1]).astype(np.float64)
    sums = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1))
    return np.asarray(sums.max(axis=0))


def _unquantized(small: NDArray[Any], scale: NDArray[Any], exact: NDArray[Any] | None) -> NDArray[Any]:
    """The weights before quantisation, in the shape that they have now: the quantiser turns those of a Gemm over, and may keep no trace."""
    rounded = np.asarray(small * scale)
    for candidate in () if exact is None else (exact, exact.T):
        if candidate.shape == small.shape and np.all(np.abs(candidate - rounded) <= scale):
            return candidate
    return rounded


def _smallest_scale(weights: NDArray[Any], *, per_channel: bool) -> NDArray[Any]:
    scales = pair_sums(weights) / _LARGEST
    return scales if per_channel else scales.max(keepdims=True)
