"""Measures one model file or network of a run: quality, size, FLOPs, and speed in turns with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.batching import Batch, pad
from agent.encoding import Document, Encoder, Float32
from agent.evaluation import Cascade, Forward, lowest_probability, run_documents
from cluster.progress import timed_bar
from compression.encoder.flops import flops_per_token
from compression.encoder.structural_pruning import num_parameters, slim
from compression.encoder.torch_model import WEIGHTS, torch_forward
from compression.graphs.onnx_graph import graph_forward, open_session
from compression.measurement.quality import Answers, answer_examples
from compression.measurement.speed import Throughput, TimeBudget, batches_by_length, latencies, throughputs
from compression.reporting.compression_report import Latency, Measurement
from compression.state.pipeline_state import Graph, PipelineState

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Candidate:
    """A model to measure.

    Attributes:
        name: Name in reports.
        file: Name of the model file.
        precision: Precision of its weights.
        size_bytes: Size of the file.
        network: The network that runs, or that the graph was made of: its weights and FLOPs are counted.
        forward: Runs the model, or the two of a cascade.
        encoder: The model's tokenizer.
        published: Whether it goes into the bundle.
        timed: Whether its speed can differ from the original's and be measured on a CPU.
    """

    name: str
    file: str
    precision: str
    size_bytes: int
    network: PreTrainedModel
    forward: Forward | Cascade
    encoder: Encoder
    published: bool = True
    timed: bool = True

    def answers(self, state: PipelineState, examples: Sequence[Any], label: str) -> Answers:
        """Runs it over labelled examples, with a progress bar."""
        with timed_bar(f"{label}: quality of {self.name}") as progress:
            return answer_examples(state.bundle.task, self.encoder, examples, self.forward, progress)

    def measurement(
        self,
        state: PipelineState,
        answers: Answers,
        original: Answers,
        *,
        latency: Mapping[int, Latency],
        throughput: Throughput | None,
    ) -> Measurement:
        """All results in one row of the report."""
        return Measurement(
            name=self.name, file=self.file, precision=self.precision, size_bytes=self.size_bytes, published=self.published,
            parameters=num_parameters(self.network),
            flops_per_token=flops_per_token(self.network, state.bundle.manifest.max_tokens),
            quality=answers.report, calibration_error=answers.calibration_error, agreement=answers.agreement(original),
            latency=latency, sentences_per_s=throughput and throughput.sentences_per_s,
            tokens_per_s=throughput and throughput.tokens_per_s,
        )  # fmt: skip


def original_of(state: PipelineState, name: str) -> Candidate:
    """The agent as it was trained; published if its weights were not changed."""
    size = (state.bundle.path / WEIGHTS).stat().st_size
    forward, published = torch_forward(state.original), not state.weights_changed
    return Candidate(name, WEIGHTS, "fp32", size, state.original, forward, state.bundle.encoder, published=published)


def network_of(state: PipelineState, name: str) -> Candidate:
    """The network without its zeros, which is as fast as its graph could be; the size is that of the weights with zeros."""
    size = sum(weight.numel() * weight.element_size() for weight in state.model.parameters())
    network = slim(state.model)
    return Candidate(name, WEIGHTS, "fp32", size, network, torch_forward(network), state.encoder)


def graph_of(state: PipelineState, graph: Graph, network: PreTrainedModel, name: str) -> Candidate:
    """An ONNX graph on ONNX Runtime, with its first pass; `network` is what it was made of, without the first pass."""
    return Candidate(
        name, graph.path.name, graph.precision, graph.size_bytes, network, forward_of(state, graph), state.encoder,
        published=graph.published, timed=graph.precision != "bf16",
    )  # fmt: skip


def forward_of(state: PipelineState, graph: Graph) -> Forward | Cascade:
    """What the graph computes on a CPU; a cascade where it has a first pass."""
    whole = graph_forward(open_session(graph.path, state.threads, graph.precision))
    first = graph.first_pass
    if first is None:
        return whole
    shallow = graph_forward(open_session(graph.path.with_name(first.file), state.threads, graph.precision))
    task, threshold = state.bundle.task, first.threshold
    return Cascade(shallow, whole, lambda *said: lowest_probability(task, *said) > threshold)


def time_batches(
    candidates: Sequence[Candidate],
    state: PipelineState,
    *,
    examples: Sequence[Any],
    batch_size: int,
    budget: TimeBudget,
) -> dict[str, Throughput]:
    """Throughput of each candidate on the same examples, each with its own tokenizer, in turns."""
    forwards: dict[str, Forward] = {}
    batches: dict[str, Sequence[Batch]] = {}
    for one in candidates:
        documents = state.bundle.task.encode(one.encoder, examples)
        if isinstance(one.forward, Cascade):
            forwards[one.name], batches[one.name] = _timed(one.forward, documents, one.encoder.pad_id, batch_size)
            continue
        windows = [window for document in documents for window in document.windows]
        forwards[one.name] = one.forward
        batches[one.name] = batches_by_length(windows, pad_id=one.encoder.pad_id, batch_size=batch_size)
    return throughputs(forwards, batches, budget=budget)


def time_sentences(
    candidates: Sequence[Candidate], state: PipelineState, budget: TimeBudget
) -> dict[str, dict[int, Latency]]:
    """Latency of each candidate for one sentence at a time, by number of tokens, in turns; of a cascade that of a sentence that takes both passes."""
    return latencies(
        {one.name: _both(one.forward) if isinstance(one.forward, Cascade) else one.forward for one in candidates},
        max_tokens=state.bundle.manifest.max_tokens,
        vocabulary=min(one.network.config.vocab_size for one in candidates),
        budget=budget,
    )


def _timed(
    cascade: Cascade, documents: Sequence[Document], pad_id: int, batch_size: int
) -> tuple[Forward, list[Batch]]:
    """A cascade as a function of batches: each is padded, computed, judged, and its rest computed by the second model."""
    ordered = sorted(documents, key=lambda document: document.num_tokens)
    batches, members = list[Batch](), dict[int, Sequence[Document]]()
    for first in range(0, len(ordered), batch_size):
        some = ordered[first : first + batch_size]
        batches.append(pad([window for document in some for window in document.windows], pad_id))
        members[id(batches[-1])] = some

    def forward(batch: Batch) -> Float32:
        some = members[id(batch)]
        run_documents(some, cascade, pad_id=pad_id, max_tokens=batch.input_ids.size)
        return np.empty(0, np.float32)

    return forward, batches


def _both(cascade: Cascade) -> Forward:
    def forward(batch: Batch) -> Float32:
        cascade.first(batch)
        return cascade.second(batch)

    return forward
