"""A short race between graphs, in the precision in which they will be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.evaluation import Forward
from compression.encoder.torch_model import quiet
from compression.exporters.base import Exporter
from compression.graphs.onnx_graph import graph_forward, open_session, probes
from compression.measurement.speed import seconds_of
from compression.pipeline.pipeline_state import State

ROUNDS = 7


def race_time(exporter: Exporter, path: Path, state: State) -> float:
    """Seconds of a graph in the precision that will be served, as `seconds_in_turns` has them."""
    served = _quantized(exporter, path, state)
    return seconds_in_turns({"": graph_forward(open_session(served, state.threads))}, state)[""]


def seconds_in_turns(forwards: Mapping[str, Forward], state: State) -> dict[str, float]:
    """Sum over three shapes (one short sentence, a batch, one long text) of the fastest of several runs."""
    batches = probes(state.model.config.vocab_size, min(128, state.bundle.manifest.max_tokens), seed=0)[1:]
    found = dict.fromkeys(forwards, 0.0)
    for batch in batches:
        best = dict.fromkeys(forwards, float("inf"))
        for _ in range(ROUNDS):
            for name, forward in forwards.items():
                forward(batch)  # what the model before left in the caches is not this one's fault
                best[name] = min(best[name], seconds_of(forward, batch))
        found = {name: seconds + best[name] for name, seconds in found.items()}
    return found


def _quantized(exporter: Exporter, path: Path, state: State) -> Path:
    from compression.steps.quantize import QuantizeStep

    steps = [step for step in state.steps if isinstance(step, QuantizeStep)]
    if not steps:
        return path
    target = path.with_suffix(".int8.onnx")
    with quiet():
        exporter.quantize(path, target, steps[0].options(path))
    return target
