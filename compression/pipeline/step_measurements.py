"""What a run measures after each step, within bounds: quality on the dev split, size, work, and speed beside the original."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from compression.measurement.speed import ComputeCost, evenly
from compression.reporting.compression_report import StepRow
from compression.reporting.report_files import trail_line

if TYPE_CHECKING:
    from compression.measurement.candidates import Candidate
    from compression.measurement.quality import Answers
    from compression.pipeline.pipeline_state import State

Thoroughness = Literal["full", "quick", "none"]  # not "off", which YAML reads as false
ORIGINAL = "original"
BATCH_SIZE = 32


class _Bound(NamedTuple):
    """How many dev examples are answered (None: all) and how many are timed, and for how long."""

    num_examples: int | None
    num_timed: int
    latency: ComputeCost
    throughput: ComputeCost


_BOUNDS = {
    "quick": _Bound(200, 64, ComputeCost(1, 1.0), ComputeCost(2, 1.0)),
    "full": _Bound(None, 256, ComputeCost(4, 10.0), ComputeCost(4, 10.0)),
}


class StepMeasurements:
    """Measures a run's steps; rows go to the state's `trail`.

    Args:
        state: Of the run.
        thoroughness: How much of the dev split, and for how long.
    """

    def __init__(self, state: State, thoroughness: Thoroughness) -> None:
        self._state, self._bound = state, _BOUNDS.get(thoroughness)
        dev = state.splits.dev
        self._examples = evenly(dev, (self._bound and self._bound.num_examples) or len(dev))

    def begin(self) -> None:
        """The row of the original, unless an interrupted run has left it."""
        if self._bound and not self._state.trail:
            self._add(self._original, seconds=0.0)

    def after(self, kind: str, seconds: float) -> None:
        """The row of a step: of the last graph for CPUs if there is one, else of the network. What verify found is in its own rows."""
        from compression.encoder.structural_pruning import slim
        from compression.measurement.candidates import graph_of, network_of

        state = self._state
        if not self._bound or kind == "verify":
            state.trail.append(StepRow(kind=kind, seconds=seconds))
            return
        if graphs := [graph for graph in state.graphs if "cpu" in graph.variant.hardware]:
            self._add(graph_of(state, graphs[-1], slim(state.model), kind), seconds=seconds)
        else:
            self._add(network_of(state, kind), seconds=seconds)

    @cached_property
    def _original(self) -> Candidate:
        from compression.measurement.candidates import original_of

        return original_of(self._state, ORIGINAL)

    @cached_property
    def _original_answers(self) -> Answers:
        return self._original.answers(self._state, self._examples, "measure")

    def _add(self, one: Candidate, seconds: float) -> None:
        from compression.measurement.candidates import time_candidates, time_sentences

        assert self._bound
        state, is_original = self._state, one is self._original
        found = self._original_answers if is_original else one.answers(state, self._examples, "measure")
        delays = time_sentences([one], state, self._bound.latency)
        pair = [self._original] if is_original else [self._original, one]
        timed = evenly(self._examples, self._bound.num_timed)
        flows = time_candidates(pair, state, examples=timed, batch_size=BATCH_SIZE, effort=self._bound.throughput)
        row = one.row(state, found, self._original_answers, latency=delays[one.name], flow=flows[one.name])
        speed = None if is_original else flows[one.name].sentences_per_s / flows[ORIGINAL].sentences_per_s
        left = StepRow(kind=one.name, seconds=seconds, num_examples=len(self._examples), measured=row, speed=speed)
        state.trail.append(left)
        print(f"measured {one.name}: {trail_line(left, state.trail[0])}", flush=True)
