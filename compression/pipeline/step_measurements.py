"""Measures the state after each step: quality on the dev split, size, FLOPs, and speed relative to the original."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from compression.measurement.speed import TimeBudget, evenly_spaced
from compression.reporting.compression_report import StepRow
from compression.reporting.report_files import step_line

if TYPE_CHECKING:
    from compression.measurement.candidates import Candidate
    from compression.measurement.quality import Answers
    from compression.state.pipeline_state import PipelineState

Thoroughness = Literal["full", "quick", "none"]  # not "off", which YAML reads as false
ORIGINAL = "original"
BATCH_SIZE = 32


class _Effort(NamedTuple):
    """How many dev examples are scored (None: all) and timed, and for how long."""

    num_examples: int | None
    num_timed: int
    latency: TimeBudget
    throughput: TimeBudget


_EFFORTS = {
    "quick": _Effort(200, 64, TimeBudget(1, 1.0), TimeBudget(2, 1.0)),
    "full": _Effort(None, 256, TimeBudget(4, 10.0), TimeBudget(4, 10.0)),
}


class StepMeasurements:
    """Measures the steps of a run and adds rows to the state's `step_rows`.

    Args:
        state: State of the run.
        thoroughness: How much of the dev split is used, and for how long speed is measured.
    """

    def __init__(self, state: PipelineState, thoroughness: Thoroughness) -> None:
        self._state, self._effort = state, _EFFORTS.get(thoroughness)
        dev = state.splits.dev
        self._examples = evenly_spaced(dev, (self._effort and self._effort.num_examples) or len(dev))

    def measure_original(self) -> None:
        """Adds the row of the original, unless it was restored with the state."""
        if self._effort and not self._state.step_rows:
            self._add(self._original, seconds=0.0)

    def measure_step(self, kind: str, seconds: float) -> None:
        """Adds the row of a step: of the last graph for CPUs if there is one, else of the network. Verify measures by itself."""
        from compression.encoder.structural_pruning import slim
        from compression.measurement.candidates import graph_of, network_of

        state = self._state
        if not self._effort or kind == "verify":
            state.step_rows.append(StepRow(kind=kind, seconds=seconds))
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

    def _add(self, candidate: Candidate, seconds: float) -> None:
        from compression.measurement.candidates import time_batches, time_sentences

        assert self._effort
        state, is_original = self._state, candidate is self._original
        answers = self._original_answers if is_original else candidate.answers(state, self._examples, "measure")
        latency = time_sentences([candidate], state, self._effort.latency)[candidate.name]
        pair = [self._original] if is_original else [self._original, candidate]
        timed = evenly_spaced(self._examples, self._effort.num_timed)
        rates = time_batches(pair, state, examples=timed, batch_size=BATCH_SIZE, budget=self._effort.throughput)
        throughput = rates[candidate.name]
        measurement = candidate.measurement(
            state, answers, self._original_answers, latency=latency, throughput=throughput
        )
        speed = None if is_original else throughput.sentences_per_s / rates[ORIGINAL].sentences_per_s
        row = StepRow(
            kind=candidate.name, seconds=seconds, num_examples=len(self._examples), measurement=measurement, speed=speed
        )
        state.step_rows.append(row)
        print(f"measured {candidate.name}: {step_line(row, state.step_rows[0])}", flush=True)
