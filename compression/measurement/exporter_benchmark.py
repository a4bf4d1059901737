"""Times ONNX graphs against each other in a few seconds, in the precision in which they will be served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.evaluation import Forward
from compression.encoder.torch_model import quiet
from compression.exporters import Exporter, Quantization
from compression.graphs.onnx_graph import graph_forward, open_session, probes
from compression.measurement.speed import seconds_of
from compression.state.pipeline_state import PipelineState

ROUNDS = 7


def served_seconds(exporter: Exporter, path: Path, state: PipelineState, quantization: Quantization | None) -> float:
    """Seconds of a float32 graph as `interleaved_seconds` measures them; of its int8 form where a quantization is given."""
    if quantization:
        source, path = path, path.with_suffix(".int8.onnx")
        with quiet():
            exporter.quantize(source, path, quantization)
    return interleaved_seconds({"": graph_forward(open_session(path, state.threads))}, state)[""]


def interleaved_seconds(forwards: Mapping[str, Forward], state: PipelineState) -> dict[str, float]:
    """For each model the sum over three shapes (a short sentence, a batch, a long text) of its fastest run; models take turns."""
    batches = probes(state.model.config.vocab_size, min(128, state.bundle.manifest.max_tokens), seed=0)[1:]
    found = dict.fromkeys(forwards, 0.0)
    for batch in batches:
        best = dict.fromkeys(forwards, float("inf"))
        for _ in range(ROUNDS):
            for name, forward in forwards.items():
                forward(batch)  # not timed: the previous model's data is in the caches
                best[name] = min(best[name], seconds_of(forward, batch))
        found = {name: seconds + best[name] for name, seconds in found.items()}
    return found
