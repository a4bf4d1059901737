"""Between which values activations of a graph lie, on calibration sentences: what static quantisation needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from agent.encoding import Batch, Float32
from agent.errors import ExportError
from compression.encoder.torch_model import quiet
from compression.graphs.onnx_graph import open_session

Method = Literal["min_max", "entropy", "percentile"]
Range = tuple[float, float]


class Rule(NamedTuple):
    """How ranges are found: extremes; least divergence of the quantised histogram (as in TensorRT); all but the outermost values.

    `percentile` is the part of the values, in percent, that lies inside, for that method.
    """

    method: Method
    percentile: float = 99.99


_BINS = {"entropy": 128, "percentile": 2048}  # as onnxruntime.quantization has them by default


def calibrate(
    path: Path,
    tensors: Sequence[str],
    batches: Sequence[Batch],
    *,
    rule: Rule,
    progress: Callable[[int, int], None],
) -> dict[str, Range]:
    """Runs a float32 graph over sentences and watches tensors of it.

    Args:
        path: The graph.
        tensors: Which outputs of its nodes to watch.
        batches: Without padding, which would count as much as words.
        rule: How ranges are found.
        progress: Told of each batch.

    Raises:
        ExportError: An activation is not finite; its node is named.
    """
    with _watching(path, tensors) as (run, producers):
        collector = _Extremes() if rule.method == "min_max" else _histograms(rule)
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
    """The least and the largest value; the same two calls as onnxruntime's collectors have."""

    def __init__(self) -> None:
        self._seen: dict[str, Range] = {}

    def collect(self, values: Mapping[str, Float32]) -> None:
        for name, value in values.items():
            low, high = self._seen.get(name, (np.inf, -np.inf))
            self._seen[name] = min(low, float(value.min())), max(high, float(value.max()))

    def compute_collection_result(self) -> dict[str, Range]:
        return self._seen


def _histograms(rule: Rule) -> Any:
    from onnxruntime.quantization.calibrate import HistogramCollector

    return HistogramCollector(
        method=rule.method, symmetric=False, num_bins=_BINS[rule.method], num_quantized_bins=128, percentile=rule.percentile, scenario="same"
    )  # fmt: skip


class _watching:  # noqa: N801 - a context manager, used like a function
    """A session over a copy of the graph that also outputs the tensors, and which node makes each of them."""

    def __init__(self, path: Path, tensors: Sequence[str]) -> None:
        self._path, self._tensors = path, tensors

    def __enter__(self) -> tuple[Callable[[Batch], dict[str, Float32]], dict[str, str]]:
        import onnx

        model = onnx.load(str(self._path))
        made = {output: f"{node.name or node.op_type}" for node in model.graph.node for output in node.output}
        there = {output.name for output in model.graph.output}
        for name in self._tensors:
            if name not in there:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        self._copy = self._path.with_suffix(".watched.onnx")
        onnx.save(model, str(self._copy))
        session = open_session(self._copy, threads=1)
        names = [node.name for node in session.get_inputs()]

        def run(batch: Batch) -> dict[str, Float32]:
            outputs = session.run(list(self._tensors), {name: getattr(batch, name) for name in names})
            return dict(zip(self._tensors, outputs, strict=True))

        return run, {name: made.get(name, "an input") for name in self._tensors}

    def __exit__(self, *_: object) -> None:
        self._copy.unlink(missing_ok=True)


def _require_finite(value: Float32, node: str, path: Path) -> None:
    if not np.isfinite(value).all():
        kinds = "NaN" if np.isnan(value).any() else "infinite values"
        raise ExportError(
            f"quantize: node {node} of {path.name} says {kinds} on a calibration sentence",
            remedy="look for weights of that layer that training let grow without bound, or use variant: dynamic",
        )
