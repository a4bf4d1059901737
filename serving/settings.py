"""Every key of serving's configuration with its default. The descriptions are the text of --help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from agent.config.base import Config
from cluster import ClusterConfig

Auto = Literal["auto"]


class ComputeConfig(Config):
    """How an engine computes, whoever feeds it."""

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto",
        description="where ONNX Runtime computes: cpu, cuda, tensorrt, or auto for cuda where the process has a GPU",
    )
    sessions: int | Auto = Field(
        "auto",
        description="batches computed at once: a number, or auto for what is fastest when measured (one on a GPU)",
    )
    threads_per_session: int | Auto = Field(
        "auto", description="threads of one batch: a number, or auto for the cores divided by the sessions"
    )
    spinning: bool | Auto = Field(
        "auto", description="whether a batch's idle threads spin before they sleep: true, false, or auto as measured"
    )
    arena: bool | Auto = Field(
        "auto", description="whether memory of a batch is kept for the next: true, false, or auto as measured"
    )
    max_batch_tokens: int = Field(
        64,
        ge=16,
        description="padded tokens in a batch; 64 was fastest of 16 to 512 on CPU cores with short texts (docs/serving.md), "
        "a GPU wants thousands",
    )

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("sessions", "threads_per_session"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} is {value}; allowed is 'auto' or a number from 1")
        return self


class EngineConfig(ComputeConfig):
    """How one replica computes."""

    max_wait_s: float = Field(
        0.2,
        gt=0,
        description="seconds for which a text may be overtaken by shorter ones, however long it is (docs/serving.md)",
    )
    warmup: bool = Field(True, description="run batches of several lengths before the replica says that it is ready")


class ReplicaConfig(Config):
    """How many replicas, and what each holds."""

    min_replicas: int = Field(
        1, ge=0, description="replicas that always run; 0 lets the first request after a pause wait for a start"
    )
    max_replicas: int | Auto = Field("auto", description="replicas under load: a number, or auto for what has room")
    num_cpus: int | Auto = Field("auto", description="cores of a replica: a number, or auto for at most 2")
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
        if self.max_replicas != "auto" and self.max_replicas < max(1, self.min_replicas):
            raise ValueError(f"max_replicas {self.max_replicas} lies below min_replicas {self.min_replicas}")
        return self


class RolloutConfig(Config):
    """When a new version of the bundle takes over."""

    watch: bool = Field(True, description="bring in what replaces the bundle in its directory, without a restart")
    poll_s: float = Field(2, gt=0, description="seconds between two looks at the directory")
    samples: int = Field(
        256, ge=0, description="latest texts kept in memory to compare a new version on; 0 keeps and compares none"
    )
    min_agreement: float = Field(
        0.8, ge=0, le=1, description="part of those texts that it has to answer as the version before does"
    )
    canary_share: float = Field(0.1, ge=0, le=1, description="part of the requests that it answers at first; 0 skips")
    canary_s: float = Field(30, ge=0, description="seconds for which it answers that part before it takes over")
    max_failures: int = Field(0, ge=0, description="requests that it may fail meanwhile; one more sends it away")


class LimitsConfig(Config):
    """What a request may hold, and what a replica takes on at once."""

    max_texts: int = Field(1_000, ge=1, description="texts in a request")
    max_characters: int = Field(250_000, ge=1, description="characters of all texts of a request together")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1, description="bytes of a request's body")
    max_stream_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="bytes of the body of a stream (application/x-ndjson), of any number of texts",
    )
    max_streams: int = Field(4, ge=1, description="streams that a replica answers at once; beyond it they get 429")
    max_queued_tokens: int = Field(
        65_536, ge=1, description="tokens that may wait in a replica; beyond it requests get 429 at once"
    )
    max_queued_s: float = Field(
        1.0,
        gt=0,
        description="seconds that a request may have to wait for those served before it, by the measured rate; "
        "beyond it, or while another has waited for longer, requests get 429 at once, so that accepted ones keep their latency",
    )
    max_concurrent_requests: int = Field(
        128, ge=1, description="requests in flight in a replica; beyond it they get 429 at once"
    )
    max_body_s: float = Field(10.0, gt=0, description="seconds in which a request's body has to arrive")


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class AuthConfig(Config):
    """Who may ask."""

    keys_file: str = Field(
        "",
        description="file of API keys, one per line (KEY or NAME: KEY), read again when it changes; empty asks for none",
    )
    texts_per_s: float = Field(
        0, ge=0, description="texts a second that a key may have predicted by each replica; 0 sets no limit"
    )
    burst_texts: float | Auto = Field(
        "auto",
        description="texts that a key may have predicted at once, before that limit: a number, or auto for a second's",
    )

    @model_validator(mode="after")
    def _limits_keys(self) -> Self:
        if self.texts_per_s and not self.keys_file:
            raise ValueError("texts_per_s limits each key, and there is no keys_file")
        if self.burst_texts != "auto" and self.burst_texts < 1:
            raise ValueError(f"burst_texts is {self.burst_texts:g}; allowed is 'auto' or a number from 1")
        return self


class CorsConfig(Config):
    """Which web pages may ask."""

    allow_origins: tuple[str, ...] = Field(
        (), description="origins (https://app.example.com, or '*') whose pages may ask; none unless listed"
    )

    @field_validator("allow_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin; allowed are '*' or such as https://app.example.com, without a path"
                )
        return origins


class LogConfig(Config):
    """What is logged of requests."""

    access: str = Field(
        "",
        description="directory for the access log, a line of JSON per request without its texts, a file per replica; "
        "empty writes none",
    )
    texts: bool = Field(False, description="log the texts as well")

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.texts and not self.access:
            raise ValueError("texts adds to the access log, which is off: set access as well")
        return self


class TracingConfig(Config):
    """OpenTelemetry traces of requests."""

    endpoint: str = Field(
        "", description="OTLP/HTTP address for spans, such as http://collector:4318/v1/traces; empty sends none"
    )
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="part of the requests that are traced, where the caller's traceparent does not say"
    )


class FrontConfig(Config):
    """What stands between the network and the predictions."""

    auth: AuthConfig = Field(default_factory=AuthConfig)
    cors: CorsConfig = Field(default_factory=CorsConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)


class AppConfig(FrontConfig):
    """An agent as a Ray Serve application."""

    bundle: str = Field(description="the bundle to serve: a directory, or s3://bucket/prefix, which every node copies")
    name: str = Field(
        "", description="the agent's name in /models/NAME and in the Open Inference Protocol; default: the directory's"
    )
    precision: str = Field(
        "auto",
        description="precision of the ONNX graph: fp32, fp16, bf16, int8, int4; auto takes the one for the hardware",
    )
    replicas: ReplicaConfig = Field(default_factory=ReplicaConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)

    @field_validator("name")
    @classmethod
    def _well_named(cls, name: str) -> str:
        if name:
            _check_name(name)
        return name

    @property
    def agent_name(self) -> str:
        """The name, given or taken from the directory."""
        return self.name or directory_name(Path(self.bundle))


class ServingConfig(AppConfig):
    """Agents served by one machine: the applications and the address they listen at."""

    agents: Mapping[str, str] = Field(
        default_factory=dict,
        description="further agents, {name: directory of the bundle}: each at /models/NAME, scaled by itself",
    )
    port: int = Field(8000, ge=1, le=65_535, description="port of the server")
    grpc_port: int = Field(0, ge=0, le=65_535, description="port for gRPC (Open Inference Protocol v2); 0 has none")
    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 lets other machines in")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @field_validator("agents")
    @classmethod
    def _named(cls, agents: Mapping[str, str]) -> Mapping[str, str]:
        for name in agents:
            _check_name(name)
        return agents

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.agent_name in self.agents:
            raise ValueError(
                f"two agents are called {self.agent_name!r}; give one another name with name=... or agents=..."
            )
        return self

    @property
    def apps(self) -> dict[str, AppConfig]:
        """What Ray Serve deploys, by route prefix."""
        app = AppConfig.model_validate(self.model_dump(include=set(AppConfig.model_fields)))
        others = {
            f"/models/{name}": app.model_copy(update={"bundle": path, "name": name})
            for name, path in self.agents.items()
        }
        return {"/": app, **others}


def directory_name(bundle: Path) -> str:
    """The name of an agent that was given none: that of its directory, other characters than names may have replaced."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", bundle.absolute().name).strip("._-")[:64] or "agent"


def _check_name(name: str) -> None:
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"{name!r} is no name for an agent; allowed are up to 64 letters, digits, '.', '_', '-'")
