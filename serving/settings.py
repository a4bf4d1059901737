"""Every key of serving's configuration with its default. The descriptions are the text of --help."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from agent.config import Config
from cluster import ClusterConfig

Auto = Literal["auto"]


class EngineConfig(Config):
    """How one replica computes."""

    provider: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where ONNX Runtime computes: cpu, cuda, or auto for cuda where the replica has a GPU"
    )
    sessions: int | Auto = Field(
        "auto", description="batches computed at once: a number, or auto for one per core (one on a GPU)"
    )
    threads_per_session: int | Auto = Field(
        "auto", description="threads of one batch: a number, or auto for the cores divided by the sessions"
    )
    max_batch_tokens: int = Field(
        128,
        ge=16,
        description="padded tokens in a batch; 128 was fastest of 64 to 512 on CPU cores with short texts, a GPU wants thousands",
    )
    max_wait_s: float = Field(
        0.5,
        gt=0,
        description="seconds of waiting after which the oldest request gets every second batch, however long its texts",
    )
    warmup: bool = Field(True, description="run batches of several lengths before the replica says that it is ready")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("sessions", "threads_per_session"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} is {value}; allowed is 'auto' or a number from 1")
        return self


class ReplicaConfig(Config):
    """How many replicas, and what each holds."""

    min_replicas: int = Field(1, ge=1, description="replicas that always run")
    max_replicas: int | Auto = Field("auto", description="replicas under load: a number, or auto for what has room")
    num_cpus: int | Auto = Field("auto", description="cores of a replica: a number, or auto for at most 2")
    num_gpus: float = Field(0, ge=0, description="GPUs of a replica; a fraction shares one")
    target_ongoing_requests: float = Field(
        32, gt=0, description="requests in flight per replica that autoscaling aims at"
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
        if self.max_replicas != "auto" and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas {self.max_replicas} lies below min_replicas {self.min_replicas}")
        return self


class LimitsConfig(Config):
    """What a request may hold, and what a replica takes on at once."""

    max_texts: int = Field(1_000, ge=1, description="texts in a request")
    max_characters: int = Field(250_000, ge=1, description="characters of all texts of a request together")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1, description="bytes of a request's body")
    max_queued_tokens: int = Field(
        65_536, ge=1, description="tokens that may wait in a replica; beyond it requests get 429 at once"
    )
    max_concurrent_requests: int = Field(
        1_024, ge=1, description="requests in flight in a replica; beyond it they get 429 at once"
    )


class AppConfig(Config):
    """An agent as a Ray Serve application."""

    bundle: str = Field(description="directory of the bundle to serve")
    precision: str = Field(
        "auto", description="precision of the ONNX graph: fp32, fp16, int8; auto takes the proven one"
    )
    replicas: ReplicaConfig = Field(default_factory=ReplicaConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)


class ServingConfig(AppConfig):
    """An agent served by one machine: the application and the address it listens at."""

    port: int = Field(8000, ge=1, le=65_535, description="port of the server")
    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 lets other machines in")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @property
    def app(self) -> AppConfig:
        """The part that Ray Serve deploys."""
        return AppConfig.model_validate(self.model_dump(include=set(AppConfig.model_fields)))
