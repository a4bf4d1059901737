"""The step verify: measures the original and every model file on the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from agent.encoding import Document, Float32
from agent.evaluation import Cascade
from cluster.progress import timed_bar
from compression.encoder.structural_pruning import num_parameters, slim
from compression.encoder.torch_model import WEIGHTS, save_model, torch_forward
from compression.measurement.candidates import (
    Candidate,
    graph_of,
    network_of,
    original_of,
    time_batches,
    time_sentences,
)
from compression.measurement.speed import CpuContention, TimeBudget, evenly_spaced
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep
from compression.writing.written_verification import MAX_TEXTS, WritingEffort, verify_written

ORIGINAL = "original, PyTorch"
CASCADE = ", cascade"
_MAX_SENTENCES = 256


class VerifyStep(BaseStep):
    """Measures quality, size, latency and throughput of all model files; the gate judges the result."""

    position: ClassVar[int] = 40
    for_writers: ClassVar[bool | None] = None
    kind: Literal["verify"] = "verify"
    batch_size: int = Field(32, ge=1, description="sentences in a batch when throughput is measured")
    max_sentences: int | None = Field(
        None, ge=1,
        description=f"test sentences over which throughput is measured; default: {_MAX_SENTENCES}, or {MAX_TEXTS} texts that an agent writes",
    )  # fmt: skip
    rounds: int = Field(6, ge=1, description="how often each model takes its turn at the clock")
    budget_s: float = Field(20.0, gt=0, description="seconds after which no further round of turns begins")

    def run(self, state: PipelineState) -> None:
        """Fills the state's `model_rows`, the original first."""
        budget = TimeBudget(self.rounds, self.budget_s / 2)
        if state.bundle.task.writes:
            effort = WritingEffort(self.batch_size, self.max_sentences or MAX_TEXTS, budget)
            verify_written(state, ORIGINAL, effort)
            return
        save_model(state.model, state.directory)
        candidates = _candidates(state)
        test = state.splits.test
        sure = list[bool]()
        answers = {one.name: _counted(one, sure).answers(state, test, "verify") for one in candidates}
        if sure:
            state.note(
                f"verify: {sure.count(False) / len(sure):.1%} of the test texts go on to the cascade's second pass"
            )
        timed = [one for one in candidates if one.timed]
        cpu = CpuContention()
        with timed_bar("verify: latency and throughput") as progress:
            latency = time_sentences(timed, state, budget)
            progress(1, 2)
            sample = evenly_spaced(test, self.max_sentences or _MAX_SENTENCES)
            rates = time_batches(timed, state, examples=sample, batch_size=self.batch_size, budget=budget)
            progress(2, 2)
        state.contention = cpu.contention(state.threads)
        state.batch_size = self.batch_size
        state.model_rows = [
            one.measurement(
                state, answers[one.name], answers[ORIGINAL],
                latency=latency.get(one.name, {}), throughput=rates.get(one.name),
            )
            for one in candidates
        ]  # fmt: skip


def _candidates(state: PipelineState) -> list[Candidate]:
    """The original, the network if its weights changed, and the graphs."""
    found = [original_of(state, ORIGINAL)]
    if state.weights_changed:
        smaller = num_parameters(state.model) < num_parameters(state.original)
        size = (state.directory / WEIGHTS).stat().st_size
        found.append(
            dataclasses.replace(
                network_of(state, "compressed, PyTorch"),
                network=state.model, forward=torch_forward(state.model), size_bytes=size, timed=smaller,
            )
        )  # fmt: skip
    network = slim(state.model)
    for graph in state.graphs:
        name = f"ONNX {graph.precision}"
        if graph.first_pass:  # what the two gain and lose beside the agent's graph alone
            alone = dataclasses.replace(graph, first_pass=None, published=False)
            found.append(graph_of(state, alone, network, f"{name} alone"))
            name += CASCADE
        found.append(graph_of(state, graph, network, name))
    return found


def _counted(candidate: Candidate, sure: list[bool]) -> Candidate:
    """The candidate, which notes of each text whether its first pass is sure of it."""
    forward = candidate.forward
    if not isinstance(forward, Cascade):
        return candidate

    def is_sure(document: Document, outputs: Sequence[Float32]) -> bool:
        sure.append(forward.is_sure(document, outputs))
        return sure[-1]

    return dataclasses.replace(candidate, forward=dataclasses.replace(forward, is_sure=is_sure))
