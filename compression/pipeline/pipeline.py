"""Runs a compression: all steps one after another, the quality gate, and the new bundle if it passes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.bundle import Draft, Evaluation, Manifest, check_output, lineage_now, write_bundle
from agent.errors import GateError
from compression.measurement.drift_record import record_distributions
from compression.measurement.speed import machine
from compression.pipeline.pipeline_inputs import CompressionConfig, PipelineInputs, prepare
from compression.pipeline.snapshots import Snapshots
from compression.pipeline.step_measurements import StepMeasurements
from compression.reporting.compression_report import CompressionReport, Measurement, Verdict
from compression.reporting.report_files import KINDS, NAME, save_report
from compression.state.pipeline_state import PipelineState
from compression.steps import BaseStep

# Files of the old bundle that the new one takes over unchanged.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "bpe.codes", "chat_template.jinja",
)  # fmt: skip
OnVerdict = Callable[[PipelineState, Verdict], None]


@dataclass(frozen=True)
class OutputLocation:
    """Directories of a run.

    Attributes:
        draft: Directory of the new bundle.
        work_directory: Where snapshots lie, and what steps keep for themselves.
        keep: Keys of snapshots that stay there beside the run's own.
    """

    draft: Path
    work_directory: Path
    keep: Collection[str] = ()


def compress(config: CompressionConfig, add: Callable[[Path], None] | None = None) -> CompressionReport:
    """Compresses an agent and publishes it as a new bundle. Resumes after the last step that an interrupted call finished.

    Args:
        config: What to do.
        add: Called with the new bundle's directory before it is published, to add files.

    Raises:
        BundleError: The bundle is damaged or compressed already, or the output may not be replaced.
        ConfigError: A step does not support this agent or this machine.
        DataError: The data does not fit the agent.
        ExportError: No ONNX graph, or no converted model, agrees with PyTorch.
        GateError: The agent lost too much. Nothing is published; the report lies beside the output.
    """
    check_output(config.output.absolute(), overwrite=config.overwrite)
    inputs, work_directory = prepare(config), work_directory_of(config.output)
    with write_bundle(config.output, overwrite=config.overwrite) as draft:
        location = OutputLocation(draft.path, work_directory)
        state = run_steps(inputs, location, on_verdict=lambda state, verdict: _require(inputs, state, verdict))
        verdict = inputs.config.gate.judge(state.model_rows[0], [row for row in state.model_rows if row.published])
        _require(inputs, state, verdict)
        save_report(_report(inputs, state, verdict), draft.path)
        record_distributions(state)
        if add:
            add(draft.path)
        _publish(inputs, state, draft)
    shutil.rmtree(work_directory, ignore_errors=True)
    for file in _refusal_reports(config.output):
        file.unlink(missing_ok=True)
    return _report(inputs, state, verdict)


def run_steps(
    inputs: PipelineInputs,
    location: OutputLocation,
    *,
    num_steps: int | None = None,
    on_verdict: OnVerdict | None = None,
) -> PipelineState:
    """Runs the steps that no earlier call has finished; measures and saves the state after each.

    Args:
        inputs: What to do.
        location: Where.
        num_steps: How many of the steps; default: all.
        on_verdict: Called with the gate's verdict after a step; raises to stop the run.

    Raises:
        AgentError: A step failed, or `on_verdict` raised it.
    """
    from compression.encoder.torch_model import torch_threads

    snapshots = Snapshots(location.work_directory)
    snapshots.keep_only({*inputs.keys, *location.keep})
    steps = inputs.config.steps[:num_steps]
    with torch_threads(inputs.config.threads):
        state = _initial_state(inputs, location)
        done = _restore(inputs, snapshots, state, len(steps))
        measurements = StepMeasurements(state, inputs.config.measure)
        measurements.measure_original()
        _check_gate(inputs.config, done, state, on_verdict)
        for number, step in enumerate(steps[done:], done + 1):
            measurements.measure_step(step.kind, _run_step(step, state))
            snapshots.save(inputs.keys[number - 1], step.kind, state)
            _check_gate(inputs.config, number, state, on_verdict)
    return state


def work_directory_of(output: Path) -> Path:
    """The directory beside the output that an interrupted run is resumed from."""
    place = output.expanduser().absolute()
    return place.with_name(f".{place.name}.work")


def _initial_state(inputs: PipelineInputs, location: OutputLocation) -> PipelineState:
    import copy

    from compression.encoder.torch_model import load_model

    config, bundle = inputs.config, inputs.bundle
    original = load_model(bundle)
    for name in _TOKENIZER_FILES:
        with suppress(FileNotFoundError):
            shutil.copy(bundle.path / name, location.draft / name)
    state = PipelineState(
        bundle=bundle, data=inputs.data, splits=inputs.splits, directory=location.draft,
        work_directory=location.work_directory, original=original, model=copy.deepcopy(original), encoder=bundle.encoder,
        steps=config.steps, threads=config.threads, seed=config.seed,
    )  # fmt: skip
    for note in inputs.notes:
        state.note(note)
    return state


def _restore(inputs: PipelineInputs, snapshots: Snapshots, state: PipelineState, num_steps: int) -> int:
    """Restores the latest state that an earlier call saved; returns how many steps are finished."""
    for done in range(num_steps, 0, -1):
        if snapshot := snapshots.find(inputs.keys[done - 1]):
            snapshots.restore(snapshot, state)
            finished = ", ".join(step.kind for step in inputs.config.steps[:done])
            print(f"resuming from {state.work_directory}; finished steps: {finished}", flush=True)
            return done
    return 0


def _run_step(step: BaseStep, state: PipelineState) -> float:
    """Runs a step and returns its seconds. The seed is set anew, so that a resumed run draws the same random numbers."""
    import torch

    torch.manual_seed(state.seed)
    started = time.perf_counter()
    step.run(state)
    return time.perf_counter() - started


def _check_gate(config: CompressionConfig, done: int, state: PipelineState, on_verdict: OnVerdict | None) -> None:
    """Lets the gate judge the last finished step, unless a later step recovers quality."""
    recovers = any(step.recovers_quality for step in config.steps[done:])
    if on_verdict is None or not done or config.gate.after_each is False or recovers:
        return
    row = state.step_rows[-1]
    if row.measurement:
        on_verdict(state, config.gate.judge_step(row, state.step_rows[0]))


def _require(inputs: PipelineInputs, state: PipelineState, verdict: Verdict) -> None:
    """Raises GateError where the verdict is a refusal; the report of a refused run is written beside the output."""
    place = inputs.config.output.absolute()
    try:
        inputs.config.gate.require(verdict, f"{place}.{NAME}.md", writes=inputs.bundle.task.writes)
    except GateError:
        save_report(_report(inputs, state, verdict), place.parent, f"{place.name}.{NAME}")
        raise


def _refusal_reports(output: Path) -> list[Path]:
    """The files of a refused run's report."""
    place = output.absolute()
    return [place.with_name(f"{place.name}.{NAME}.{kind}") for kind in KINDS]


def _report(inputs: PipelineInputs, state: PipelineState, verdict: Verdict) -> CompressionReport:
    return CompressionReport(
        bundle=str(inputs.config.bundle), parent_digest=inputs.bundle.digest, data_digest=inputs.splits.digest,
        config=inputs.config.model_dump(mode="json"), machine=machine(), threads=inputs.config.threads,
        batch_size=state.batch_size, contention=state.contention,
        versions=lineage_now(base_model="", data_digest="").versions, notes=tuple(state.notes),
        step_rows=tuple(state.step_rows), model_rows=tuple(state.model_rows), verdict=verdict,
    )  # fmt: skip


def _publish(inputs: PipelineInputs, state: PipelineState, draft: Draft) -> None:
    parent = inputs.bundle.manifest
    for graph in state.graphs:
        if not graph.published:
            graph.path.unlink()
    for model in state.converted:
        if not model.published:
            shutil.rmtree(model.path)
    lineage = lineage_now(
        base_model=parent.lineage.base_model, data_digest=parent.lineage.data_digest,
        parent_digest=inputs.bundle.digest, config=inputs.config.model_dump(mode="json"),
    )  # fmt: skip
    draft.publish(
        Manifest(
            task=parent.task, max_tokens=parent.max_tokens, stride=parent.stride, segmentation=parent.segmentation,
            lineage=lineage,
            evaluations=tuple(_evaluation(row, state) for row in state.model_rows if row.published),
            onnx=tuple(graph.variant for graph in state.graphs if graph.published),
            converted=tuple(model.variant for model in state.converted if model.published),
        )
    )  # fmt: skip


def _evaluation(row: Measurement, state: PipelineState) -> Evaluation:
    return Evaluation(split="test", data_digest=state.splits.digest, model=row.file, report=row.quality)
