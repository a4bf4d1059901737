"""Configuration of an agent as a Ray Serve application. The descriptions are the text of --help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from agent.config.base import Config
from agent.decisions.exploration import ExploreConfig
from serving.feedback.decision_log import FeedbackConfig
from serving.inference.engine import EngineConfig
from serving.inference.session_plan import Auto
from serving.middleware.middleware_stack import FrontConfig
from serving.ray_serve.rollout import RolloutConfig
from serving.scheduling.limits import LimitsConfig
from serving.shift.drift_watch import DriftConfig

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class ReplicaConfig(Config):
    """How many replicas, and what each holds."""

    min_replicas: int | Auto = Field(
        "auto",
        description="replicas that always run: a number, or auto for one per core with serving/run.py and one on a cluster; "
        "0 lets the first request after a pause wait for a start",
    )
    max_replicas: int | Auto = Field("auto", description="replicas under load: a number, or auto for what has room")
    num_cpus: int | Auto = Field("auto", description="cores of a replica: a number, or auto for 1")
    num_gpus: float = Field(0, ge=0, description="GPUs of a replica; a fraction shares one")
    target_load: float = Field(
        0.7,
        gt=0,
        le=1,
        description="part of what a replica can compute (time computing, weighted by batch fill) that autoscaling aims at",
    )
    target_queued_s: float = Field(
        0.25, gt=0, description="seconds of work waiting in a replica that autoscaling aims at; more adds replicas"
    )
    upscale_delay_s: float = Field(10, ge=0, description="seconds of overload before replicas are added")
    downscale_delay_s: float = Field(300, ge=0, description="seconds of idleness before replicas are taken away")
    graceful_shutdown_timeout_s: float = Field(
        20, ge=0, description="seconds that a leaving replica has to answer what it accepted"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("max_replicas", "num_cpus"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} is {value}; allowed is 'auto' or a number from 1")
        if self.min_replicas == "auto":
            return self
        if self.min_replicas < 0:
            raise ValueError(f"min_replicas is {self.min_replicas}; allowed is 'auto' or a number from 0")
        if self.max_replicas != "auto" and self.max_replicas < max(1, self.min_replicas):
            raise ValueError(f"max_replicas {self.max_replicas} lies below min_replicas {self.min_replicas}")
        return self


class AppConfig(FrontConfig):
    """An agent as a Ray Serve application."""

    bundle: str = Field(description="the bundle to serve: a directory, or s3://bucket/prefix, which every node copies")
    entities: str = Field(
        "",
        description="bundle of a tagger that finds the entities of texts without marks; with it an agent of relation_extraction answers with triples",
    )
    name: str = Field(
        "", description="the agent's name in /models/NAME and in the Open Inference Protocol; default: the directory's"
    )
    precision: str = Field(
        "auto",
        description="precision of the model: fp32, fp16, bf16, int8, int4 of an ONNX graph, fp32 or int8 of an agent that writes; auto takes the one for the hardware",
    )
    replicas: ReplicaConfig = Field(default_factory=ReplicaConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)
    drift: DriftConfig = Field(default_factory=DriftConfig)
    feedback: FeedbackConfig = Field(default_factory=FeedbackConfig)
    explore: ExploreConfig = Field(default_factory=ExploreConfig)

    @field_validator("name")
    @classmethod
    def _well_named(cls, name: str) -> str:
        if name:
            check_name(name)
        return name

    @model_validator(mode="after")
    def _learns_from_exploring(self) -> Self:
        if self.explore.kind != "greedy" and not self.feedback.store:
            raise ValueError(f"explore.{self.explore.kind} serves to learn from decisions; set feedback.store as well")
        return self

    @property
    def agent_name(self) -> str:
        """The name, given or taken from the directory."""
        return self.name or directory_name(Path(self.bundle))


def directory_name(bundle: Path) -> str:
    """The name of an agent that was given none: that of its directory, other characters than names may have replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bundle.absolute().name).strip("._-")[:64] or "agent"


def check_name(name: str) -> None:
    """Refuses what cannot stand in an address.

    Raises:
        ValueError: It is no name for an agent.
    """
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"{name!r} is no name for an agent; allowed are up to 64 letters, digits, '.', '_', '-'")
