"""Quantises float32 graphs: dynamic int8, static int8 and int4 weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.batching import Batch, pad
from agent.errors import ConfigError
from cluster.progress import timed_bar
from compression.encoder.torch_model import quiet
from compression.exporters import Exporter, Quantization
from compression.graphs.onnxruntime_internals import quantize_int4
from compression.quantization.activation_ranges import CalibrationRule, find_ranges
from compression.quantization.static_quantization import fix_scales, scaled_tensors

if TYPE_CHECKING:
    from compression.state.pipeline_state import PipelineState

_INT4_BLOCK = 32  # number of weights with one scale
_CALIBRATION_TOKENS = 64  # longer texts cost time and show no wider ranges


def write_dynamic(exporter: Exporter, source: Path, target: Path, options: Quantization) -> None:
    """Writes int8 weights; the scales of activations are computed for each batch."""
    with timed_bar("quantize: dynamic int8"), quiet():
        exporter.quantize(source, target, options)


def write_static(dynamic: Path, source: Path, target: Path, batches: Sequence[Batch], rule: CalibrationRule) -> None:
    """Writes the dynamic graph with constant scales of activations, found by running the float32 graph `source` over `batches`."""
    with timed_bar(f"quantize: static int8, {rule.method}") as progress:
        ranges = find_ranges(source, scaled_tensors(dynamic), batches, rule=rule, progress=progress)
        target.write_bytes(dynamic.read_bytes())
        fix_scales(target, ranges)


def write_int4(exporter: Exporter, source: Path, target: Path, options: Quantization) -> None:
    """Writes int4 weights of matrix products, in blocks; Attention and embeddings are int8, since they have no int4 kernel."""
    import onnx

    with timed_bar("quantize: int4 weights"), quiet():
        others = [kind for kind in options.op_types if kind not in ("MatMul", "Gemm")]
        exporter.quantize(source, target, dataclasses.replace(options, op_types=others))
        onnx.save(quantize_int4(onnx.load(str(target)), block_size=_INT4_BLOCK, exclude=options.exclude), str(target))


def calibration_batches(state: PipelineState, num_examples: int, max_tokens: int | None) -> list[Batch]:
    """Training texts in batches of one, none longer than `max_tokens` (default: 64, or as many as the shortest has).

    Raises:
        ConfigError: All texts are longer.
    """
    windows = state.windows(state.sample_train(num_examples))
    shortest = min(len(window.input_ids) for window in windows)
    limit = max(shortest, _CALIBRATION_TOKENS) if max_tokens is None else max_tokens
    if shortest > limit:
        raise ConfigError(
            f"quantize.max_calibration_tokens={limit}, but the shortest calibration text has {shortest} tokens",
            allowed=f"at least {shortest}",
            remedy="raise it",
        )
    return [pad([window], state.encoder.pad_id) for window in windows if len(window.input_ids) <= limit]
