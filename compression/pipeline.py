"""The run of a compression: check everything, take the steps one after another, let the gate judge, publish or not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from agent.bundle import Bundle, Draft, Evaluation, Manifest, check_output, lineage_now, write_bundle
from agent.config import Config, from_mapping
from agent.data import DataConfig, Splits, load_splits
from agent.errors import BundleError, GateError
from cluster.connection import usable_cores
from compression.gate import Gate
from compression.measure import machine
from compression.report import CompressionReport, Measured
from compression.state import State
from compression.steps import ORDER, ExportStep, PruneStep, QuantizeStep, Step, VerifyStep

# What a bundle holds beside the weights, and what the new one takes over as it is.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "sentencepiece.bpe.model", "spiece.model", "bpe.codes",
)  # fmt: skip


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
        return self


def compress(config: CompressionConfig) -> CompressionReport:
    """Compresses an agent and publishes it as a new bundle.

    Raises:
        BundleError: The bundle is damaged or compressed already, or the output may not be replaced.
        ConfigError: A step cannot be taken on this agent or this machine.
        DataError: The data does not fit the agent.
        ExportError: No ONNX graph agrees with PyTorch.
        GateError: The agent lost too much. Nothing is published; the report lies beside the output.
    """
    bundle = _open(config)
    data, splits, notes = _load_data(config, bundle)
    from compression.torch_model import torch_threads

    with torch_threads(config.threads), write_bundle(config.output, overwrite=config.overwrite) as draft:
        state = _start(config, bundle, data, splits, draft)
        for note in notes:
            state.note(note)
        seconds = {str(step.kind): _take(step, state) for step in config.steps}
        report = _report(config, state, seconds)
        _judge(config, report)
        _publish(config, state, draft, report)
    shutil.rmtree(state.workshop, ignore_errors=True)
    for file in _refusals(config.output):
        file.unlink(missing_ok=True)
    return report


def _open(config: CompressionConfig) -> Bundle:
    """Checks what can be checked before anything heavy is imported."""
    check_output(config.output.absolute(), overwrite=config.overwrite)
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


def _start(config: CompressionConfig, bundle: Bundle, data: DataConfig, splits: Splits, draft: Draft) -> State:
    import copy

    import torch

    from compression.torch_model import load_model

    torch.manual_seed(config.seed)
    original = load_model(bundle)
    for name in _TOKENIZER_FILES:
        with suppress(FileNotFoundError):
            shutil.copy(bundle.path / name, draft.path / name)
    return State(
        bundle=bundle, data=data, splits=splits, directory=draft.path, workshop=_workshop(config.output),
        original=original, model=copy.deepcopy(original), encoder=bundle.encoder,
        steps=config.steps, threads=config.threads, seed=config.seed,
    )  # fmt: skip


def _workshop(output: Path) -> Path:
    place = output.expanduser().absolute()
    return place.with_name(f".{place.name}.work")


def _take(step: Any, state: State) -> float:
    started = time.perf_counter()
    step.run(state)
    return time.perf_counter() - started


def _report(config: CompressionConfig, state: State, seconds: Mapping[str, float]) -> CompressionReport:
    published = [row for row in state.measured if row.published]
    return CompressionReport(
        bundle=str(config.bundle), parent_digest=state.bundle.digest, data_digest=state.splits.digest,
        config=config.model_dump(mode="json"), machine=machine(), threads=config.threads, batch_size=state.batch_size, contention=state.contention,
        versions=lineage_now(base_model="", data_digest="").versions, notes=tuple(state.notes), step_seconds=seconds,
        rows=tuple(state.measured), verdict=config.gate.judge(state.measured[0], published),
    )  # fmt: skip


def _judge(config: CompressionConfig, report: CompressionReport) -> None:
    place = config.output.absolute()
    try:
        config.gate.require(report.verdict, f"{place}.report.md")
    except GateError:
        report.save(place.parent, f"{place.name}.report")
        raise


def _refusals(output: Path) -> list[Path]:
    """The reports that a refused run leaves beside its output."""
    place = output.absolute()
    return [place.with_name(f"{place.name}.report.{kind}") for kind in ("md", "json")]


def _publish(config: CompressionConfig, state: State, draft: Draft, report: CompressionReport) -> None:
    parent = state.bundle.manifest
    for graph in state.graphs:
        if not graph.published:
            graph.path.unlink()
    report.save(draft.path)
    lineage = lineage_now(
        base_model=parent.lineage.base_model, data_digest=parent.lineage.data_digest,
        parent_digest=state.bundle.digest, config=config.model_dump(mode="json"),
    )  # fmt: skip
    draft.publish(
        Manifest(
            task=parent.task, max_tokens=parent.max_tokens, stride=parent.stride, lineage=lineage,
            evaluations=tuple(_evaluation(row, state) for row in report.rows if row.published),
            onnx=tuple(graph.variant for graph in state.graphs if graph.published),
        )
    )  # fmt: skip


def _evaluation(row: Measured, state: State) -> Evaluation:
    return Evaluation(split="test", data_digest=state.splits.digest, model=row.file, report=row.quality)
