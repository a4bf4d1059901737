"""The run of a compression: check everything, take the steps one after another, let the gate judge, publish or not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from agent.bundle import (
    Bundle,
    Draft,
    Evaluation,
    Manifest,
    check_output,
    installed_versions,
    lineage_now,
    write_bundle,
)
from agent.config.base import Config, from_mapping
from agent.data import DataConfig, Splits, load_splits
from agent.errors import BundleError, GateError
from cluster.connection import usable_cores
from compression.measurement.speed import machine
from compression.pipeline.gate import Gate
from compression.pipeline.pipeline_state import State
from compression.pipeline.snapshots import Snapshots, chain_keys
from compression.pipeline.step_measurements import StepMeasurements, Thoroughness
from compression.reporting.compression_report import CompressionReport, Measured, Verdict
from compression.reporting.report_files import KINDS, NAME, save_report
from compression.steps import ORDER, BaseStep, ExportStep, PruneStep, QuantizeStep, Step, VerifyStep

# What a bundle holds beside the weights, and what the new one takes over as it is.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "bpe.codes",
)  # fmt: skip
# A step that another version of these finished is taken again.
_HEEDED = ("bert-agent", "torch", "transformers", "onnx", "onnxruntime-gpu", "onnxruntime", "optimum", "tokenizers")


class DataChoice(DataConfig):
    """Which data to calibrate and test on."""

    path: str = Field("", description="as in training; empty: the data that the bundle was trained on")


class CompressionConfig(Config):
    """A run of compression."""

    bundle: Path = Field(description="the trained agent")
    output: Path = Field(description="where the compressed agent goes")
    overwrite: bool = Field(False, description="replace a bundle at output")
    data: DataChoice = Field(default_factory=DataChoice)
    seed: int = Field(0, description="for the choice of calibration sentences")
    threads: int = Field(default_factory=usable_cores, ge=1, description="threads of PyTorch and ONNX Runtime")
    steps: tuple[Step, ...] = Field(
        default_factory=lambda: (PruneStep(), ExportStep(), QuantizeStep(), VerifyStep()),
        description="what to do, in order; each a kind, or {kind: ..., option: ...}",
    )
    gate: Gate = Field(default_factory=Gate)
    measure: Thoroughness = Field(
        "quick",
        description="after each step: quick (200 examples of the dev split, a second or two), full (all of it), none; verify measures the end whatever stands here",
    )

    @field_validator("steps", mode="before")
    @classmethod
    def _expand(cls, steps: Any) -> Any:
        """Lets a bare kind stand for the step with its defaults."""
        return (
            [{"kind": step} if isinstance(step, str) else step for step in steps] if isinstance(steps, list) else steps
        )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        kinds = [step.kind for step in self.steps]
        places = [step.place for step in self.steps]
        if places != sorted(set(places)):
            raise ValueError(f"steps are {', '.join(kinds)}; allowed: each once, in the order {', '.join(ORDER)}")
        if kinds[-1:] != ["verify"]:
            raise ValueError("steps must end with verify: nothing is published unproven")
        if "quantize" in kinds and "export" not in kinds:
            raise ValueError("step quantize needs a step export before it")
        if self.gate.after_each and self.measure == "none":
            raise ValueError("gate.after_each=true needs measure=quick or measure=full: it judges what was measured")
        return self


@dataclass(frozen=True)
class PipelineRun:
    """What is to be done, checked.

    Attributes:
        data: The recorded configuration of the data with what was given now on top of it.
        notes: What is to be said of the data.
        keys: Of the state after each step, as snapshots have them.
    """

    config: CompressionConfig
    bundle: Bundle
    data: DataConfig
    splits: Splits
    notes: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class OutputLocation:
    """Where a run works.

    Attributes:
        draft: Directory of the new bundle.
        workshop: Where snapshots lie, and what steps keep for themselves.
        keep: Keys of snapshots that stay there beside the run's own.
    """

    draft: Path
    workshop: Path
    keep: Collection[str] = ()


def compress(config: CompressionConfig, add: Callable[[Path], None] | None = None) -> CompressionReport:
    """Compresses an agent and publishes it as a new bundle. Goes on behind the last step that an interrupted call has finished.

    Args:
        config: What to do.
        add: Called with the new bundle's directory before it is published, to add files.

    Raises:
        BundleError: The bundle is damaged or compressed already, or the output may not be replaced.
        ConfigError: A step cannot be taken on this agent or this machine.
        DataError: The data does not fit the agent.
        ExportError: No ONNX graph agrees with PyTorch.
        GateError: The agent lost too much. Nothing is published; the report lies beside the output.
    """
    check_output(config.output.absolute(), overwrite=config.overwrite)
    job, workshop = prepare(config), workshop_of(config.output)
    with write_bundle(config.output, overwrite=config.overwrite) as draft:
        place = OutputLocation(draft.path, workshop)
        state = take_steps(job, place, refuse=lambda state, verdict: _judge(job, state, verdict))
        verdict = config.gate.judge(state.measured[0], [row for row in state.measured if row.published])
        _judge(job, state, verdict)
        save_report(_report(job, state, verdict), draft.path)
        if add:
            add(draft.path)
        _publish(job, state, draft)
    shutil.rmtree(workshop, ignore_errors=True)
    for file in _refusals(config.output):
        file.unlink(missing_ok=True)
    return _report(job, state, verdict)


def prepare(config: CompressionConfig) -> PipelineRun:
    """Checks all that can be checked before work starts.

    Raises:
        AgentError: As `compress`.
    """
    bundle = _open(config)
    data, splits, notes = _load_data(config, bundle)
    known = [
        bundle.digest, splits.digest, config.seed, config.threads, config.measure, data.model_dump(mode="json"),
        installed_versions(_HEEDED),
    ]  # fmt: skip
    return PipelineRun(config, bundle, data, splits, tuple(notes), tuple(chain_keys(known, config.steps)))


def take_steps(
    job: PipelineRun,
    place: OutputLocation,
    *,
    num_steps: int | None = None,
    refuse: Callable[[State, Verdict], None] | None = None,
) -> State:
    """Takes the steps that no earlier call has finished, each measured and kept.

    Args:
        job: What to do.
        place: Where.
        num_steps: How many of the steps; default: all.
        refuse: Called with what the gate says after steps.

    Raises:
        AgentError: A step cannot be taken, or `refuse` raised it.
    """
    from compression.encoder.torch_model import torch_threads

    snapshots = Snapshots(place.workshop)
    snapshots.keep_only({*job.keys, *place.keep})
    steps = job.config.steps[:num_steps]
    with torch_threads(job.config.threads):
        state = _start(job, place)
        done = _restore(job, snapshots, state, len(steps))
        trail = StepMeasurements(state, job.config.measure)
        trail.begin()
        _ask(job.config, done, state, refuse)
        for number, step in enumerate(steps[done:], done + 1):
            trail.after(step.kind, _take(step, state))
            snapshots.save(job.keys[number - 1], step.kind, state)
            _ask(job.config, number, state, refuse)
    return state


def _restore(job: PipelineRun, snapshots: Snapshots, state: State, most: int) -> int:
    """Takes up what an earlier call has left; returns how many steps that were."""
    for done in range(most, 0, -1):
        if taken := snapshots.find(job.keys[done - 1]):
            snapshots.restore(taken, state)
            finished = ", ".join(step.kind for step in job.config.steps[:done])
            print(f"goes on with what an earlier run has left in {state.workshop}: finished are {finished}", flush=True)
            return done
    return 0


def _ask(config: CompressionConfig, done: int, state: State, refuse: Callable[[State, Verdict], None] | None) -> None:
    """Asks the gate about the last of the steps done, but not where a later one wins quality back."""
    later = config.steps[done:]
    if refuse is None or not done or config.gate.after_each is False or any(step.restores for step in later):
        return
    row = state.trail[-1]
    if row.measured:
        refuse(state, config.gate.judge_step(row, state.trail[0]))


def _open(config: CompressionConfig) -> Bundle:
    """Checks what can be checked before anything heavy is imported."""
    for step in config.steps:
        step.check()
    bundle = Bundle.load(config.bundle)
    if bundle.manifest.onnx:
        raise BundleError(
            f"bundle {config.bundle} is compressed already (it holds {bundle.manifest.onnx[-1].file})",
            allowed="a bundle written by training/run.py",
            remedy="compress the bundle that it was made from",
        )
    return bundle


def _load_data(config: CompressionConfig, bundle: Bundle) -> tuple[DataConfig, Splits, list[str]]:
    """The recorded configuration with what was given now on top of it, the splits by it, and what to say of them."""
    recorded = bundle.manifest.lineage.config
    trained_on = recorded.get("data", {})
    known = {key: value for key, value in trained_on.items() if key in DataConfig.model_fields} if trained_on else {}
    given = config.data.model_dump(exclude_unset=True)
    choice = from_mapping(DataConfig, {**({} if given.get("path") else known), **given})
    splits = load_splits(choice, bundle.task, seed=int(recorded.get("seed", 0)))
    notes = list(splits.notes)
    if splits.digest != bundle.manifest.lineage.data_digest:
        notes.append(
            f"data: {choice.path} is not the data that the agent was trained on (digest {splits.digest[:12]}, "
            f"trained on {bundle.manifest.lineage.data_digest[:12]}); F1 is measured on what was given"
        )
    return choice, splits, notes


def _start(job: PipelineRun, place: OutputLocation) -> State:
    import copy

    from compression.encoder.torch_model import load_model

    config, bundle = job.config, job.bundle
    original = load_model(bundle)
    for name in _TOKENIZER_FILES:
        with suppress(FileNotFoundError):
            shutil.copy(bundle.path / name, place.draft / name)
    state = State(
        bundle=bundle, data=job.data, splits=job.splits, directory=place.draft, workshop=place.workshop,
        original=original, model=copy.deepcopy(original), encoder=bundle.encoder,
        steps=config.steps, threads=config.threads, seed=config.seed,
    )  # fmt: skip
    for note in job.notes:
        state.note(note)
    return state


def workshop_of(output: Path) -> Path:
    """Where what an interrupted run goes on with lies, beside its output."""
    place = output.expanduser().absolute()
    return place.with_name(f".{place.name}.work")


def _take(step: BaseStep, state: State) -> float:
    """Takes a step; what is random in it does not hang on the steps that were taken in this process."""
    import torch

    torch.manual_seed(state.seed)
    started = time.perf_counter()
    step.run(state)
    return time.perf_counter() - started


def _report(job: PipelineRun, state: State, verdict: Verdict) -> CompressionReport:
    return CompressionReport(
        bundle=str(job.config.bundle), parent_digest=job.bundle.digest, data_digest=job.splits.digest,
        config=job.config.model_dump(mode="json"), machine=machine(), threads=job.config.threads,
        batch_size=state.batch_size, contention=state.contention,
        versions=lineage_now(base_model="", data_digest="").versions, notes=tuple(state.notes),
        trail=tuple(state.trail), rows=tuple(state.measured), verdict=verdict,
    )  # fmt: skip


def _judge(job: PipelineRun, state: State, verdict: Verdict) -> None:
    """Lets the gate refuse; the report of a refused run lies beside the output."""
    place = job.config.output.absolute()
    try:
        job.config.gate.require(verdict, f"{place}.{NAME}.md")
    except GateError:
        save_report(_report(job, state, verdict), place.parent, f"{place.name}.{NAME}")
        raise


def _refusals(output: Path) -> list[Path]:
    """The reports that a refused run leaves beside its output."""
    place = output.absolute()
    return [place.with_name(f"{place.name}.{NAME}.{kind}") for kind in KINDS]


def _publish(job: PipelineRun, state: State, draft: Draft) -> None:
    parent = job.bundle.manifest
    for graph in state.graphs:
        if not graph.published:
            graph.path.unlink()
    lineage = lineage_now(
        base_model=parent.lineage.base_model, data_digest=parent.lineage.data_digest,
        parent_digest=job.bundle.digest, config=job.config.model_dump(mode="json"),
    )  # fmt: skip
    draft.publish(
        Manifest(
            task=parent.task, max_tokens=parent.max_tokens, stride=parent.stride, segmentation=parent.segmentation, lineage=lineage,
            evaluations=tuple(_evaluation(row, state) for row in state.measured if row.published),
            onnx=tuple(graph.variant for graph in state.graphs if graph.published),
        )
    )  # fmt: skip


def _evaluation(row: Measured, state: State) -> Evaluation:
    return Evaluation(split="test", data_digest=state.splits.digest, model=row.file, report=row.quality)
