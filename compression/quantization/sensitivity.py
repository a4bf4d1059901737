"""Sensitivity of a graph's nodes to int8: quantises each alone, and keeps the worst in float32 until the error is small enough."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agent.batching import Batch
from agent.evaluation import Forward
from cluster.progress import timed_bar
from compression.encoder.torch_model import quiet
from compression.graphs.onnx_graph import graph_forward, open_session

Quantize = Callable[[Path, Sequence[str]], None]


def error_of(reference: Forward, forward: Forward, batches: Sequence[Batch]) -> float:
    """Root mean square difference of logits, relative to the reference's root mean square; without padding."""
    gap = own = 0.0
    for batch in batches:
        expected, logits = reference(batch), forward(batch)
        mask = batch.attention_mask.astype(bool) if expected.ndim == 3 else np.ones(len(expected), bool)
        gap += float(((logits - expected)[mask] ** 2).sum())
        own += float((expected[mask] ** 2).sum())
    return float(np.sqrt(gap / max(own, 1e-30)))


def find_exclusions(
    quantize: Quantize, source: Path, nodes: Sequence[str], *, batches: Sequence[Batch], max_error: float
) -> tuple[list[str], float]:
    """The nodes to keep in float32, most sensitive first, and the error of the graph without them.

    Args:
        quantize: Writes a graph with all but the nodes of these names quantised.
        source: The float32 graph.
        nodes: Names of all nodes that may be quantised.
        batches: What errors are measured on.
        max_error: Allowed `error_of`.
    """
    reference = graph_forward(open_session(source, threads=1))
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:

        def error_without(excluded: Sequence[str]) -> float:
            target = Path(scratch) / "tried.onnx"
            with quiet():
                quantize(target, excluded)
            return error_of(reference, graph_forward(open_session(target, threads=1)), batches)

        with timed_bar("quantize: sensitivity of nodes") as progress:
            errors = {}
            for done, name in enumerate(nodes, 1):
                errors[name] = error_without([other for other in nodes if other != name])
                progress(done, len(nodes))
        excluded: list[str] = []
        for name in sorted(errors, key=errors.__getitem__, reverse=True):
            if (error := error_without(excluded)) <= max_error:
                return excluded, error
            excluded.append(name)
    return excluded, 0.0
