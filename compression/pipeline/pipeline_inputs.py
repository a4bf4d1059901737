"""The configuration of a compression, and what it names: agent and data, loaded and checked before work starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from agent.bundle import Bundle, installed_versions
from agent.config.base import Config, from_mapping
from agent.data import DataConfig, Splits, load_splits
from agent.errors import BundleError, ConfigError
from agent.tasks import SequenceToSequence
from cluster.connection import usable_cores
from compression.pipeline.gate import Gate
from compression.pipeline.presets import PRESETS, WRITERS_STEPS, PresetName, written_steps
from compression.pipeline.snapshots import cache_keys
from compression.pipeline.step_measurements import Thoroughness
from compression.steps import ORDER, Step

# A snapshot is used again only where the versions of these packages are the same.
_CACHED_VERSIONS = (
    "bert-agent",
    "torch",
    "transformers",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "optimum",
    "tokenizers",
    "ctranslate2",
)


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
    threads: int = Field(
        default_factory=usable_cores, ge=1, description="threads of PyTorch, ONNX Runtime and CTranslate2"
    )
    preset: PresetName | None = Field(
        None, description="a named list of steps: fast, exact, balanced or small; steps, where given, replace it"
    )
    steps: tuple[Step, ...] = Field(
        default_factory=lambda: PRESETS["fast"].steps,
        description="what to do, in order; each a kind, or {kind: ..., option: ...}; of agents that write, [convert, verify] if none are given",
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

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, tree: Any) -> Any:
        """Takes the steps of the preset, unless others are given."""
        if isinstance(tree, dict) and "steps" not in tree and tree.get("preset") in list(PRESETS):
            return {**tree, "steps": PRESETS[tree["preset"]].steps}
        return tree

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        kinds = [step.kind for step in self.steps]
        positions = [step.position for step in self.steps]
        if positions != sorted(set(positions)):
            raise ValueError(f"steps are {', '.join(kinds)}; allowed: each once, in the order {', '.join(ORDER)}")
        if kinds[-1:] != ["verify"]:
            raise ValueError("steps must end with verify: nothing is published unproven")
        for kind in ("quantize", "cascade"):
            if kind in kinds and "export" not in kinds:
                raise ValueError(f"step {kind} needs a step export before it")
        if self.gate.after_each and self.measure == "none":
            raise ValueError("gate.after_each=true needs measure=quick or measure=full: it judges what was measured")
        return self


@dataclass(frozen=True)
class PipelineInputs:
    """The inputs of a compression, loaded and checked.

    Attributes:
        data: The recorded configuration of the training data, overridden by what was given now.
        notes: Lines on the data for the report.
        keys: Cache key of the state after each step.
    """

    config: CompressionConfig
    bundle: Bundle
    data: DataConfig
    splits: Splits
    notes: tuple[str, ...]
    keys: tuple[str, ...]


def prepare(config: CompressionConfig) -> PipelineInputs:
    """Checks all that can be checked before work starts.

    Raises:
        AgentError: A step, the bundle or the data cannot be used.
    """
    for step in config.steps:
        step.check()
    bundle = _load_bundle(config)
    if bundle.task.writes:
        config = _for_writers(config, bundle)
    for step in config.steps:
        step.check_task(bundle.task)
    data, splits, notes = _load_data(config, bundle)
    known = [
        bundle.digest, splits.digest, config.seed, config.threads, config.measure, data.model_dump(mode="json"),
        installed_versions(_CACHED_VERSIONS),
    ]  # fmt: skip
    return PipelineInputs(config, bundle, data, splits, tuple(notes), tuple(cache_keys(known, config.steps)))


def _load_bundle(config: CompressionConfig) -> Bundle:
    bundle = Bundle.load(config.bundle)
    held = [*(graph.file for graph in bundle.manifest.onnx), *(model.directory for model in bundle.manifest.converted)]
    if held:
        raise BundleError(
            f"bundle {config.bundle} is compressed already (it holds {held[-1]})",
            allowed="a bundle written by training/run.py",
            remedy="compress the bundle that it was made from",
        )
    return bundle


def _for_writers(config: CompressionConfig, bundle: Bundle) -> CompressionConfig:
    """The configuration for an agent that writes: its steps where none are given, and nothing measured between them.

    Raises:
        ConfigError: A preset was given, conversion is left out, or what can only be measured between steps was asked for.
    """
    what, remedy = f"bundle {bundle.path} is an agent of {bundle.task.kind}, which writes texts", "leave it out"
    if config.preset and config.steps == PRESETS[config.preset].steps:
        raise ConfigError(
            f"preset={config.preset}: {what}, and presets are lists of steps for others",
            allowed="no preset: steps=[convert,verify]",
            remedy=remedy,
        )
    if config.gate.after_each or ("measure" in config.model_fields_set and config.measure != "none"):
        raise ConfigError(
            f"measure={config.measure} and gate.after_each={config.gate.after_each}: {what}, and no step of theirs comes before convert, whose result verify measures",
            allowed="measure=none without gate.after_each",
            remedy=remedy,
        )
    steps = config.steps if "steps" in config.model_fields_set else WRITERS_STEPS
    if "convert" not in [step.kind for step in steps] and not any(step.for_writers is False for step in steps):
        raise ConfigError(
            f"{written_steps(steps)}: {what}, and without convert nothing could be served",
            allowed="steps=[convert,verify]",
            remedy="add convert",
        )
    gate = config.gate.for_generated_texts() if isinstance(bundle.task, SequenceToSequence) else config.gate
    return config.model_copy(update={"steps": steps, "measure": "none", "gate": gate})


def _load_data(config: CompressionConfig, bundle: Bundle) -> tuple[DataConfig, Splits, list[str]]:
    """Returns the configuration of the data, the splits, and notes on them."""
    recorded = bundle.manifest.lineage.config
    known = {key: value for key, value in recorded.get("data", {}).items() if key in DataConfig.model_fields}
    given = config.data.model_dump(exclude_unset=True)
    choice = from_mapping(DataConfig, {**({} if given.get("path") else known), **given})
    splits = load_splits(choice, bundle.task, seed=int(recorded.get("seed", 0)))
    notes = list(splits.notes)
    if splits.digest != bundle.manifest.lineage.data_digest:
        notes.append(
            f"data: {choice.path} is not the data that the agent was trained on (digest {splits.digest[:12]}, "
            f"trained on {bundle.manifest.lineage.data_digest[:12]}); quality is measured on what was given"
        )
    return choice, splits, notes
