"""A short race between graphs, in the precision in which they will be served."""

from __future__ import annotations

from pathlib import Path

from compression.exporters.base import Exporter
from compression.graph import graph_forward, open_session, probes
from compression.measure import seconds_of
from compression.state import State
from compression.torch_model import quiet

ROUNDS = 7


def race_time(exporter: Exporter, path: Path, state: State) -> float:
    """Sum over three shapes (one short sentence, a batch, one long text) of the fastest of several runs, in seconds."""
    served = _quantized(exporter, path, state)
    forward = graph_forward(open_session(served, state.threads))
    batches = probes(state.model.config.vocab_size, min(128, state.bundle.manifest.max_tokens), seed=0)[1:]
    for batch in batches:
        forward(batch)
    return sum(min(seconds_of(forward, batch) for _ in range(ROUNDS)) for batch in batches)


def _quantized(exporter: Exporter, path: Path, state: State) -> Path:
    from compression.steps.quantize import QuantizeStep

    steps = [step for step in state.steps if isinstance(step, QuantizeStep)]
    if not steps:
        return path
    target = path.with_suffix(".int8.onnx")
    with quiet():
        exporter.quantize(path, target, steps[0].options(path))
    return target
