"""What can be measured of a state: the original, the network as it is now, a graph; each with its file and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.encoding import Batch, Encoder
from agent.evaluation import Forward
from cluster.progress import timed_bar
from compression.encoder.flops import flops_per_token
from compression.encoder.structural_pruning import num_parameters, slim
from compression.encoder.torch_model import WEIGHTS, torch_forward
from compression.graphs.onnx_graph import graph_forward, open_session
from compression.measurement.quality import Answers, answers
from compression.measurement.speed import ComputeCost, Throughput, latencies, neighbours_in_length, throughputs
from compression.pipeline.pipeline_state import Graph, State
from compression.reporting.compression_report import Latency, Measured

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Candidate:
    """Something to be measured.

    Attributes:
        name: In reports.
        file: Of the model, by name.
        precision: Of its weights.
        size_bytes: Of the file.
        network: What computes, or what the graph was made of: to count weights and work.
        forward: Runs it.
        encoder: Its tokenizer.
        published: Whether it goes into the bundle.
        timed: Whether its speed can differ from the original's and be measured on a CPU.
    """

    name: str
    file: str
    precision: str
    size_bytes: int
    network: PreTrainedModel
    forward: Forward
    encoder: Encoder
    published: bool = True
    timed: bool = True

    def answers(self, state: State, examples: Sequence[Any], label: str) -> Answers:
        """What it answers, under a bar."""
        with timed_bar(f"{label}: F1 of {self.name}") as progress:
            return answers(state.bundle.task, self.encoder, examples, self.forward, progress)

    def row(
        self,
        state: State,
        found: Answers,
        original: Answers,
        *,
        latency: Mapping[int, Latency],
        flow: Throughput | None,
    ) -> Measured:
        """All that was found out about it."""
        return Measured(
            name=self.name,
            file=self.file,
            precision=self.precision,
            size_bytes=self.size_bytes,
            parameters=num_parameters(self.network),
            flops_per_token=flops_per_token(self.network, state.bundle.manifest.max_tokens),
            quality=found.report,
            calibration_error=found.calibration_error,
            agreement=found.agreement(original),
            latency=latency,
            sentences_per_s=flow and flow.sentences_per_s,
            tokens_per_s=flow and flow.tokens_per_s,
            published=self.published,
        )


def original_of(state: State, name: str) -> Candidate:
    """The agent as it was trained; published if nothing changed its weights."""
    size = (state.bundle.path / WEIGHTS).stat().st_size
    forward = torch_forward(state.original)
    return Candidate(
        name, WEIGHTS, "fp32", size, state.original, forward, state.bundle.encoder, published=not state.changed
    )


def network_of(state: State, name: str) -> Candidate:
    """The network without its zeros: as fast as its graph could make it. The file would hold the zeros."""
    size = sum(weight.numel() * weight.element_size() for weight in state.model.parameters())
    network = slim(state.model)
    return Candidate(name, WEIGHTS, "fp32", size, network, torch_forward(network), state.encoder)


def graph_of(state: State, graph: Graph, network: PreTrainedModel, name: str) -> Candidate:
    """An ONNX graph on ONNX Runtime; `network` is what it was made of."""
    forward = graph_forward(open_session(graph.path, state.threads, graph.precision))
    size = graph.path.stat().st_size
    return Candidate(
        name, graph.path.name, graph.precision, size, network, forward, state.encoder,
        published=graph.published, timed=graph.precision != "bf16",
    )  # fmt: skip


def time_candidates(
    candidates: Sequence[Candidate], state: State, *, examples: Sequence[Any], batch_size: int, effort: ComputeCost
) -> dict[str, Throughput]:
    """Passes over the same examples, in turns; each in its own sub-words."""
    batches: dict[str, Sequence[Batch]] = {}
    for one in candidates:
        documents = state.bundle.task.encode(one.encoder, examples)
        windows = [window for document in documents for window in document.windows]
        batches[one.name] = neighbours_in_length(windows, pad_id=one.encoder.pad_id, batch_size=batch_size)
    return throughputs({one.name: one.forward for one in candidates}, batches, effort=effort)


def time_sentences(candidates: Sequence[Candidate], state: State, effort: ComputeCost) -> dict[str, dict[int, Latency]]:
    """One sentence at a time, in turns."""
    return latencies(
        {one.name: one.forward for one in candidates},
        max_tokens=state.bundle.manifest.max_tokens,
        vocabulary=min(one.network.config.vocab_size for one in candidates),
        effort=effort,
    )
