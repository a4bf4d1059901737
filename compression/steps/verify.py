"""Measures the original and everything that would be published: F1 on the test split, size, latency, throughput."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from agent.evaluation import Forward, evaluate
from compression.bars import bar
from compression.graph import graph_forward, open_session
from compression.measure import Effort, Neighbours, Throughput, latencies, neighbours_in_length, throughputs
from compression.report import Latency, Measured
from compression.state import State
from compression.steps.base import BaseStep
from compression.torch_model import torch_forward

if TYPE_CHECKING:
    from agent.encoding import Batch, Encoder
    from agent.tasks import Report

ORIGINAL = "original, PyTorch"
WEIGHTS = "model.safetensors"


class _Candidate(NamedTuple):
    """Something to be measured."""

    name: str
    file: Path
    precision: str
    parameters: int
    forward: Forward
    encoder: Encoder
    published: bool
    timed: bool = True


class VerifyStep(BaseStep):
    """The proof. The gate judges what it finds."""

    place: ClassVar[int] = 40
    kind: Literal["verify"] = "verify"
    batch_size: int = Field(32, ge=1, description="sentences in a batch when throughput is measured")
    max_sentences: int = Field(256, ge=1, description="test sentences over which throughput is measured")
    rounds: int = Field(6, ge=1, description="how often each model takes its turn at the clock")
    budget_s: float = Field(20.0, gt=0, description="seconds after which no further round of turns begins")

    def run(self, state: State) -> None:
        """Evaluates and times; rows go to the report, the original first."""
        candidates = _candidates(state)
        quality = {candidate.name: _score(candidate, state) for candidate in candidates}
        forwards = {one.name: one.forward for one in candidates if one.timed}
        neighbours = Neighbours()
        with bar("verify: latency and throughput") as progress:
            options = {"max_tokens": state.bundle.manifest.max_tokens, "vocabulary": state.model.config.vocab_size}
            effort = Effort(self.rounds, self.budget_s / 2)
            delays = latencies(forwards, effort=effort, **options)
            progress(1, 2)
            batches = {one.name: self._batches(state, one.encoder) for one in candidates}
            flows = throughputs(forwards, batches, effort=effort)
            progress(2, 2)
        state.contention = neighbours.contention(state.threads)
        state.batch_size = self.batch_size
        state.measured = [_row(one, quality[one.name], delays.get(one.name), flows.get(one.name)) for one in candidates]

    def _batches(self, state: State, encoder: Encoder) -> list[Batch]:
        """Evenly spaced test sentences: their lengths are those of the whole split."""
        test = state.splits.test
        step = max(1, len(test) // self.max_sentences)
        documents = state.bundle.task.encode(encoder, test[::step][: self.max_sentences])
        windows = [window for document in documents for window in document.windows]
        return neighbours_in_length(windows, pad_id=encoder.pad_id, batch_size=self.batch_size)


def _candidates(state: State) -> list[_Candidate]:
    from compression.slimming import num_parameters
    from compression.torch_model import save_model

    save_model(state.model, state.directory)
    whole = num_parameters(state.original)
    forward, published = torch_forward(state.original), not state.changed
    found = [_Candidate(ORIGINAL, state.bundle.path / WEIGHTS, "fp32", whole, forward, state.bundle.encoder, published)]
    if state.changed:
        size = num_parameters(state.model)
        weights, forward = state.directory / WEIGHTS, torch_forward(state.model)
        encoder, timed = state.encoder, size < whole
        found.append(_Candidate("compressed, PyTorch", weights, "fp32", size, forward, encoder, True, timed))
    for graph in state.graphs:
        forward = graph_forward(open_session(graph.path, state.threads))
        name = f"ONNX {graph.precision}"
        found.append(
            _Candidate(name, graph.path, graph.precision, state.parameters, forward, state.encoder, graph.published)
        )
    return found


def _score(candidate: _Candidate, state: State) -> Report:
    task = state.bundle.task
    with bar(f"verify: F1 of {candidate.name}") as progress:
        return evaluate(task, candidate.encoder, state.splits.test, candidate.forward, progress=progress)


def _row(one: _Candidate, quality: Report, latency: Mapping[int, Latency] | None, flow: Throughput | None) -> Measured:
    return Measured(
        name=one.name,
        file=one.file.name,
        precision=one.precision,
        size_bytes=one.file.stat().st_size,
        parameters=one.parameters,
        quality=quality,
        latency=latency or {},
        sentences_per_s=flow and flow.sentences_per_s,
        tokens_per_s=flow and flow.tokens_per_s,
        published=one.published,
    )
