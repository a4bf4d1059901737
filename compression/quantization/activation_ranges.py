"""Finds the ranges of a graph's activations on calibration sentences, for static quantisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from agent.batching import Batch
from agent.encoding import Float32
from agent.errors import ExportError
from compression.encoder.torch_model import quiet, quiet_logs
from compression.graphs.onnx_graph import open_session
from compression.graphs.onnxruntime_internals import histogram_collector

Method = Literal["min_max", "entropy", "percentile"]
Range = tuple[float, float]


class CalibrationRule(NamedTuple):
    """How ranges are found.

    Attributes:
        method: `min_max`: extremes; `entropy`: least divergence of the quantised histogram (as in TensorRT); `percentile`: a range
            that holds a share of the values.
        percentile: That share, in percent.
    """

    method: Method
    percentile: float = 99.99


def find_ranges(
    path: Path,
    tensors: Sequence[str],
    batches: Sequence[Batch],
    *,
    rule: CalibrationRule,
    progress: Callable[[int, int], None],
) -> dict[str, Range]:
    """Runs a float32 graph over sentences and returns the ranges of some of its tensors.

    Args:
        path: The graph.
        tensors: Names of outputs of nodes.
        batches: Sentences without padding, since padding would count.
        rule: How ranges are found.
        progress: Called after each batch.

    Raises:
        ExportError: An activation is not finite; names its node.
    """
    with quiet_logs(), _observed(path, tensors) as (run, producers):  # once, and not anew for every batch
        collector = _Extremes() if rule.method == "min_max" else histogram_collector(rule.method, rule.percentile)
        for done, batch in enumerate(batches, 1):
            values = run(batch)
            for name, value in values.items():
                _require_finite(value, producers[name], path)
            with quiet():
                collector.collect(values)
            progress(done, len(batches))
    with quiet():
        found = collector.compute_collection_result()
    return {name: (float(found[name][0]), float(found[name][1])) for name in tensors}


class _Extremes:
    """Collects the smallest and the largest value, with the interface of onnxruntime's collectors."""

    def __init__(self) -> None:
        self._seen: dict[str, Range] = {}

    def collect(self, values: Mapping[str, Float32]) -> None:
        for name, value in values.items():
            low, high = self._seen.get(name, (np.inf, -np.inf))
            self._seen[name] = min(low, float(value.min())), max(high, float(value.max()))

    def compute_collection_result(self) -> dict[str, Range]:
        return self._seen


@contextmanager
def _observed(
    path: Path, tensors: Sequence[str]
) -> Iterator[tuple[Callable[[Batch], dict[str, Float32]], dict[str, str]]]:
    """Yields a function that runs a copy of the graph and returns the tensors, and the node that makes each of them."""
    import onnx

    model = onnx.load(str(path))
    producers = {output: f"{node.name or node.op_type}" for node in model.graph.node for output in node.output}
    outputs = {output.name for output in model.graph.output}
    for name in tensors:
        if name not in outputs:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    copy = path.with_suffix(".observed.onnx")
    onnx.save(model, str(copy))
    session = open_session(copy, threads=1)
    names = [node.name for node in session.get_inputs()]

    def run(batch: Batch) -> dict[str, Float32]:
        values = session.run(list(tensors), batch.feeds(names))
        return {
            name: value for name, value in zip(tensors, values, strict=True) if value.size
        }  # none of no asked token

    try:
        yield run, {name: producers.get(name, "an input") for name in tensors}
    finally:
        copy.unlink(missing_ok=True)


def _require_finite(value: Float32, node: str, path: Path) -> None:
    if not np.isfinite(value).all():
        kinds = "NaN" if np.isnan(value).any() else "infinite values"
        raise ExportError(
            f"quantize: node {node} of {path.name} gives {kinds} on a calibration sentence",
            remedy="look for weights of that layer that training let grow without bound, or use variant: dynamic",
        )
