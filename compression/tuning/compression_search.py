"""Configuration of a compression search: a compression, and ranges of its steps' options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from agent.config.base import from_mapping
from agent.config.nested import flatten
from agent.config.search_ranges import Range, corners, draw, parse_range
from cluster import ClusterConfig
from cluster.tuning import check_settings
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.pipeline.step_measurements import Thoroughness
from compression.steps import ExportStep, PruneStep, QuantizeStep, Step, VerifyStep
from compression.tuning.trial_record import CompressionTrial

_TAKEN = "taken"  # beside a step's options: whether it is taken at all
# Searched where space is not given, of those steps that are in the list.
_DEFAULT_SPACE = {
    "prune.head_ratio": "uniform(0.0, 0.4)",
    "prune.ffn_ratio": "uniform(0.1, 0.6)",
    "low_rank.energy": "uniform(0.8, 0.99)",
    "quantize.embeddings": "choice(true, false)",
    "quantize.per_channel": "choice(true, false)",
}


class CompressionSearchConfig(CompressionConfig):
    """A search: a compression, and ranges that some options of its steps are drawn from."""

    steps: tuple[Step, ...] = Field(
        default_factory=lambda: (PruneStep(), ExportStep(), QuantizeStep(), VerifyStep()),
        description="as in compression/run.py; prune keeps to the ratios that a trial drew",
    )
    measure: Thoroughness = Field("full", description="as in compression/run.py; trials are compared by the last row")
    num_trials: int = Field(12, ge=1, description="lists of steps to try; all, where space has only so many")
    max_score_loss: float = Field(0.01, ge=0, lt=1, description="part of the original's dev score that may be lost")
    max_concurrent: int = Field(
        1, ge=1, description="trials at a time, each with its own `threads` cores of this machine"
    )
    resume: bool = Field(True, description="go on with an unfinished search of the same output")
    cluster: ClusterConfig = ClusterConfig()
    space: Mapping[str, str] = Field(
        default_factory=dict,
        description="STEP.OPTION=RANGE, or STEP.taken=choice(true, false) for whether it is taken at all; a range is loguniform(low, high), "
        "uniform(low, high), int(low, high) or choice(a, b, ...); default: ratios of prune, options of quantize",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        return flatten(space) if isinstance(space, Mapping) else space

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.measure == "none":
            raise ValueError("measure=none leaves nothing to compare trials by; allowed: full, quick")
        kinds = [step.kind for step in self.steps]
        for key, written in self.space.items():
            kind, _, option = key.partition(".")
            if kind not in kinds[:-1] or not option:
                raise ValueError(f"space.{key}: there is no such step to search; steps are {', '.join(kinds[:-1])}")
            try:
                found = parse_range(written)
            except ValueError as error:
                raise ValueError(f"space.{key}={written!r}: {error}") from None
            if option == _TAKEN and set(found.values) - {True, False}:
                raise ValueError(f"space.{key}={written!r}: whether a step is taken is choice(true, false)")
        if not self.ranges:
            raise ValueError(
                f"nothing to search in steps {', '.join(kinds)}: give space, such as space.prune.ffn_ratio"
            )
        return self

    @property
    def ranges(self) -> dict[str, Range]:
        """The parsed ranges of the space."""
        kinds = {step.kind for step in self.steps}
        default = {key: written for key, written in _DEFAULT_SPACE.items() if key.partition(".")[0] in kinds}
        return {key: parse_range(written) for key, written in (self.space or default).items()}

    def compressed_with(self, settings: Mapping[str, Any]) -> CompressionConfig:
        """The configuration of a trial.

        Raises:
            ConfigError: A key does not exist, takes no such value, or leaves steps that do not fit together.
        """
        tree = self.model_dump(mode="json", exclude_unset=True, include=set(CompressionConfig.model_fields))
        steps: dict[str, Any] = {step.kind: step.model_dump(mode="json") for step in self.steps}
        for key, value in settings.items():
            kind, _, option = key.partition(".")
            if option != _TAKEN:
                steps[kind][option] = value
        left = [step for kind, step in steps.items() if settings.get(f"{kind}.{_TAKEN}", True)]
        return from_mapping(CompressionConfig, {**tree, "steps": left, "measure": self.measure})

    def trials(self) -> tuple[CompressionTrial, ...]:
        """The trials: the whole grid where there are only choices and few, else drawn by seed; each once.

        Raises:
            ConfigError: A key of the space does not exist, or takes no value of its range.
        """
        ranges = self.ranges
        for settings in corners(ranges):
            check_settings(self.compressed_with, settings)
        found: list[dict[str, Any]] = []
        for settings in self._drawn(ranges):
            check_settings(self.compressed_with, settings)
            if settings not in found:
                found.append(settings)
        return tuple(CompressionTrial(number=number, settings=settings) for number, settings in enumerate(found, 1))

    def _drawn(self, ranges: Mapping[str, Range]) -> list[dict[str, Any]]:
        choices = all(found.kind == "choice" for found in ranges.values())
        if choices and math.prod(len(found.values) for found in ranges.values()) <= self.num_trials:
            grid = itertools.product(*(found.values for found in ranges.values()))
            return [dict(zip(ranges, values, strict=True)) for values in grid]
        return [draw(ranges, seed=self.seed, number=number) for number in range(1, self.num_trials + 1)]
