"""Measures the original and everything that would be published: F1 on the test split, size, latency, throughput."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from pydantic import Field

from cluster.progress import timed_bar
from compression.encoder.structural_pruning import num_parameters, slim
from compression.encoder.torch_model import WEIGHTS, save_model, torch_forward
from compression.measurement.candidates import (
    Candidate,
    graph_of,
    network_of,
    original_of,
    time_candidates,
    time_sentences,
)
from compression.measurement.speed import ComputeCost, Neighbours, evenly
from compression.pipeline.pipeline_state import State
from compression.steps.base import BaseStep

ORIGINAL = "original, PyTorch"


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
        save_model(state.model, state.directory)
        candidates = _candidates(state)
        test = state.splits.test
        found = {one.name: one.answers(state, test, "verify") for one in candidates}
        timed = [one for one in candidates if one.timed]
        effort = ComputeCost(self.rounds, self.budget_s / 2)
        neighbours = Neighbours()
        with timed_bar("verify: latency and throughput") as progress:
            delays = time_sentences(timed, state, effort)
            progress(1, 2)
            sample = evenly(test, self.max_sentences)
            flows = time_candidates(timed, state, examples=sample, batch_size=self.batch_size, effort=effort)
            progress(2, 2)
        state.contention = neighbours.contention(state.threads)
        state.batch_size = self.batch_size
        state.measured = [
            one.row(
                state, found[one.name], found[ORIGINAL],
                latency=delays.get(one.name, {}), flow=flows.get(one.name),
            )
            for one in candidates
        ]  # fmt: skip


def _candidates(state: State) -> list[Candidate]:
    """The original, the weights that will be published if they differ, and the graphs."""
    found = [original_of(state, ORIGINAL)]
    if state.changed:
        smaller = num_parameters(state.model) < num_parameters(state.original)
        size = (state.directory / WEIGHTS).stat().st_size
        found.append(
            dataclasses.replace(
                network_of(state, "compressed, PyTorch"),
                network=state.model, forward=torch_forward(state.model), size_bytes=size, timed=smaller,
            )
        )  # fmt: skip
    network = slim(state.model)
    return [*found, *(graph_of(state, graph, network, f"ONNX {graph.precision}") for graph in state.graphs)]
