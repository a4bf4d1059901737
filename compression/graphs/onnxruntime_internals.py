"""The Python modules of ONNX Runtime that are not part of its documented interface; nothing else in this package imports them.

Written for onnxruntime 1.31; tests/compression/graphs/test_onnxruntime_internals.py checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_BINS = {"entropy": 128, "percentile": 2048}  # the defaults of onnxruntime.quantization


def fuse_bert(path: Path, *, num_heads: int, hidden_size: int) -> None:
    """Fuses the nodes of a BERT-like graph in place. Every Attention node gets the same number of heads."""
    from onnxruntime.transformers.optimizer import optimize_model

    fused = optimize_model(str(path), model_type="bert", num_heads=num_heads, hidden_size=hidden_size, opt_level=0)
    fused.save_model_to_file(str(path))


def to_float16(model: Any) -> Any:
    """A float32 model in float16; inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)


def histogram_collector(method: str, percentile: float) -> Any:
    """A collector of activation ranges by `entropy` or `percentile`, with `collect` and `compute_collection_result`."""
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(
        method=method, symmetric=False, num_bins=_BINS[method], num_quantized_bins=128, percentile=percentile, scenario="same"
    )  # fmt: skip


def quantize_int4(model: Any, *, block_size: int, exclude: Sequence[str]) -> Any:
    """A model with int4 weights of its MatMul nodes, in blocks with one scale each."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        model, bits=4, block_size=block_size, is_symmetric=True, accuracy_level=4, nodes_to_exclude=list(exclude),
        op_types_to_quantize=("MatMul",),
    )  # fmt: skip
    quantizer.process()
    return quantizer.model.model
