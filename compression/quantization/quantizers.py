"""Ways to make a float32 graph small: dynamic int8, static int8 and int4 weights. Writes graphs, judges none."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.encoding import Batch, pad
from agent.errors import ConfigError
from cluster.progress import timed_bar
from compression.encoder.torch_model import quiet
from compression.exporters import Exporter, Quantization
from compression.quantization.activation_ranges import Rule, calibrate
from compression.quantization.static_quantization import fix_scales, scaled_tensors

if TYPE_CHECKING:
    from compression.pipeline.pipeline_state import State

_INT4_BLOCK = 32  # weights that share a scale
_CALIBRATION_TOKENS = 64  # longer texts cost time and show no wider ranges


def write_dynamic(exporter: Exporter, source: Path, target: Path, how: Quantization) -> None:
    """Weights in int8; activations are scaled by each batch anew."""
    with timed_bar("quantize: dynamic int8"), quiet():
        exporter.quantize(source, target, how)


def write_static(dynamic: Path, source: Path, target: Path, batches: Sequence[Batch], rule: Rule) -> None:
    """The dynamic graph with the scales of activations that `batches` call for in the float32 one, `source`."""
    with timed_bar(f"quantize: static int8, {rule.method}") as progress:
        ranges = calibrate(source, scaled_tensors(dynamic), batches, rule=rule, progress=progress)
        target.write_bytes(dynamic.read_bytes())
        fix_scales(target, ranges)


def write_int4(exporter: Exporter, source: Path, target: Path, how: Quantization) -> None:
    """Weights of products in int4, in blocks; attention's and the embeddings' in int8, for which there is no int4 kernel."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with timed_bar("quantize: int4 weights"), quiet():
        others = [kind for kind in how.op_types if kind not in ("MatMul", "Gemm")]
        exporter.quantize(source, target, dataclasses.replace(how, op_types=others))
        quantizer = MatMulNBitsQuantizer(
            onnx.load(str(target)), bits=4, block_size=_INT4_BLOCK, is_symmetric=True, accuracy_level=4,
            nodes_to_exclude=list(how.exclude), op_types_to_quantize=("MatMul",),
        )  # fmt: skip
        quantizer.process()
        onnx.save(quantizer.model.model, str(target))


def calibration_batches(state: State, num_examples: int, max_tokens: int | None) -> list[Batch]:
    """Training texts one by one, without padding, and none longer than `max_tokens` (default: 64, or as many as the shortest has).

    Raises:
        ConfigError: All of them are longer.
    """
    train = state.splits.train
    sample = random.Random(state.seed).sample(train, min(num_examples, len(train)))
    documents = state.bundle.task.encode(state.encoder, sample)
    windows = [window for document in documents for window in document.windows]
    shortest = min(len(window.input_ids) for window in windows)
    limit = max(shortest, _CALIBRATION_TOKENS) if max_tokens is None else max_tokens
    if shortest > limit:
        raise ConfigError(
            f"quantize.max_calibration_tokens={limit}, but the shortest calibration text has {shortest} tokens",
            allowed=f"at least {shortest}",
            remedy="raise it",
        )
    return [pad([window], state.encoder.pad_id) for window in windows if len(window.input_ids) <= limit]
