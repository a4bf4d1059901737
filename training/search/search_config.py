"""Configuration of a hyper-parameter search: a training run, and ranges of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from agent.config.base import from_mapping
from agent.config.nested import flatten
from agent.config.search_ranges import Range, corners, draw, parse_range
from cluster.tuning import check_settings
from training.config import TrainingConfig
from training.search.search_record import Trial
from training.search.search_space import assign, check_key


class TuneConfig(TrainingConfig):
    """A search: a fine-tuning run, and the ranges that some of its settings are drawn from."""

    num_trials: int = Field(16, ge=1, description="settings to try")
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at a time; default: as many as the GPUs are enough for, one on CPUs"
    )
    grace_epochs: int = Field(1, ge=1, description="epochs after which a trial may be stopped for the first time")
    reduction_factor: int = Field(
        3,
        ge=2,
        description="of the trials that have come as far (1, 3, 9, ... times grace_epochs), one in so many goes on",
    )
    space: Mapping[str, str] = Field(
        {"optimizer.learning_rate": "loguniform(5e-5, 5e-4)", "batch.tokens": "choice(512, 1024, 2048)"},
        description="keys that are searched, with loguniform(low, high), uniform(low, high), int(low, high) or choice(a, b, ...); "
        "what is given replaces this default, and each range the single value of its key",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _dotted(cls, space: Any) -> Any:
        return flatten(space) if isinstance(space, Mapping) else space

    @field_validator("space")
    @classmethod
    def _in_order(cls, space: Mapping[str, str]) -> Mapping[str, str]:
        if not space:
            raise ValueError("nothing to search: give at least one key with a range")
        for key, written in space.items():
            try:
                check_key(key)
                parse_range(written)
            except ValueError as error:
                raise ValueError(f"space.{key}={written!r}: {error}") from None
        return space

    @property
    def ranges(self) -> dict[str, Range]:
        """The parsed ranges of the space."""
        return {key: parse_range(written) for key, written in self.space.items()}

    def trained_with(self, settings: Mapping[str, Any]) -> TrainingConfig:
        """The configuration of a trial.

        Raises:
            ConfigError: A key does not exist or takes no such value.
        """
        given = self.model_dump(mode="json", exclude_unset=True, include=set(TrainingConfig.model_fields))
        return from_mapping(TrainingConfig, assign(given, settings))

    def trials(self) -> tuple[Trial, ...]:
        """The trials, drawn by seed.

        Raises:
            ConfigError: A key of the space does not exist, or takes no value of its range.
        """
        ranges = self.ranges
        found = tuple(
            Trial(number=number, settings=draw(ranges, seed=self.seed, number=number))
            for number in range(1, self.num_trials + 1)
        )
        for settings in (*corners(ranges), *(trial.settings for trial in found)):
            check_settings(self.trained_with, settings)
        return found
