"""Checks and runs ONNX graphs, and compares their logits with those of a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.batching import Batch
from agent.encoding import Float32
from agent.errors import ConfigError, ExportError, one_line
from agent.evaluation import Forward
from compression.encoder.torch_model import INPUTS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from agent.bundle import Precision

OUTPUT, ASKED = "logits", "asked"
_REMEDY = "choose another exporter (steps: [..., {kind: export, exporter: torchscript}, ...])"


def open_session(path: Path, threads: int, precision: Precision = "fp32") -> InferenceSession:
    """Opens a graph on the CPU; a bfloat16 graph is emulated in float32.

    Raises:
        ExportError: ONNX Runtime refuses it.
    """
    import onnxruntime

    from compression.graphs.half_precision import emulated

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        model = emulated(path) if precision == "bf16" else str(path)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime has a dozen error types without a common parent
        raise ExportError(f"ONNX Runtime cannot load {path.name} ({one_line(error)})", remedy=_REMEDY) from None


def require_opset(opset: int) -> None:
    """Checks that ONNX Runtime and onnx support an opset.

    Raises:
        ConfigError: They do not.
    """
    import onnx
    import onnxruntime

    value = onnx.helper.make_tensor_value_info
    ends = [value(name, onnx.TensorProto.FLOAT, [1]) for name in ("a", "b")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "probe", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - onnxruntime has a dozen error types without a common parent
        raise ConfigError(
            f"export.opset={opset}, which onnxruntime {onnxruntime.__version__} does not have",
            allowed="an opset that it has: 18",
            remedy="lower opset or install a newer onnxruntime",
        ) from None


def graph_forward(session: InferenceSession) -> Forward:
    """The graph as a function from batches to logits."""
    names = [node.name for node in session.get_inputs()]

    def forward(batch: Batch) -> Float32:
        return batch.shaped(np.asarray(session.run([OUTPUT], batch.feeds(names))[0], np.float32), names)

    return forward


def check_graph(path: Path, precision: Precision = "fp32") -> tuple[str, ...]:
    """Runs onnx.checker over a file and loads it once; returns the names of its inputs.

    Raises:
        ExportError: The graph is not valid, or has other inputs and outputs than agents have.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # noqa: BLE001 - the checker raises its own error and protobuf's
        raise ExportError(f"{path.name} is no valid ONNX graph ({one_line(error)})", remedy=_REMEDY) from None
    session = open_session(path, 1, precision)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    wrong = [node.name for node in inputs if node.name not in (*INPUTS, ASKED) or node.type != "tensor(int64)"]
    if wrong or [node.name for node in outputs] != [OUTPUT]:
        raise ExportError(
            f"{path.name} has inputs {[node.name for node in inputs]} and outputs {[node.name for node in outputs]}",
            allowed=f"int64 inputs {', '.join((*INPUTS, ASKED))} and one output {OUTPUT}",
            remedy=_REMEDY,
        )
    return tuple(node.name for node in inputs)


def probes(vocabulary: int, max_tokens: int, seed: int) -> list[Batch]:
    """Batches of random tokens in various shapes, with padding, up to the model's maximum length."""
    rng = np.random.default_rng(seed)
    shapes = ((1, 3), (1, 16), (3, 7), (8, 33), (2, max_tokens))
    return [_probe(rng, rows, min(tokens, max_tokens), vocabulary) for rows, tokens in shapes]


def largest_difference(one: Forward, other: Forward, batches: Sequence[Batch]) -> tuple[float, tuple[int, ...]]:
    """The largest absolute difference of logits, without padding, and the shape of its batch."""
    found = [(_difference(one(batch), other(batch), batch), batch.input_ids.shape) for batch in batches]
    return max(found)


def require_parity(
    reference: Forward, path: Path, *, batches: Sequence[Batch], tolerance: float, precision: Precision = "fp32"
) -> float:
    """Compares a graph with its network; returns the largest difference of logits.

    Raises:
        ExportError: They differ by more than `tolerance`, or the graph cannot run.
    """
    try:
        difference, shape = largest_difference(reference, graph_forward(open_session(path, 1, precision)), batches)
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001 - onnxruntime has a dozen error types without a common parent
        raise ExportError(f"{path.name} does not run ({one_line(error)})", remedy=_REMEDY) from None
    if not difference <= tolerance:  # also refuses NaN
        raise ExportError(
            f"{path.name} differs from PyTorch by {difference:.2g} (logits, batch of shape {shape})",
            allowed=f"at most {tolerance:g}",
            remedy=_REMEDY,
        )
    return difference


def _probe(rng: Any, rows: int, tokens: int, vocabulary: int) -> Batch:
    lengths = rng.integers(max(1, tokens // 2), tokens + 1, rows)
    lengths[0] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, vocabulary, (rows, tokens)) * mask
    return Batch(ids, mask, np.zeros_like(ids))


def _difference(one: Float32, other: Float32, batch: Batch) -> float:
    gap = np.abs(one - other)
    if (
        gap.ndim == 3 and gap.shape[1] == batch.input_ids.shape[1]
    ):  # else there are no tokens, or they come last and are masked
        gap = gap[batch.attention_mask.astype(bool)]
    return float("inf") if np.isnan(gap).any() else float(gap.max())
