"""Every key of `serving/annotate.py` with its default. The descriptions are the text of --help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from agent.config.base import Config
from cluster import ClusterConfig
from serving.inference.session_plan import Auto, ComputeConfig

FormatName = Literal["jsonl", "text", "parquet"]


class WorkersConfig(Config):
    """How many processes annotate, and what each holds."""

    num: int | Auto = Field("auto", description="workers: a number, or auto for as many as the cluster has room for")
    num_cpus: int = Field(1, ge=1, description="cores of a worker; each has its own copy of the agent")
    num_gpus: float = Field(0, ge=0, description="GPUs of a worker; a fraction shares one")

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if self.num != "auto" and self.num < 1:
            raise ValueError(f"num is {self.num}; allowed is 'auto' or a number from 1")
        return self


class AnnotateConfig(Config):
    """What to annotate, with which agent, and where the answers go."""

    bundle: str = Field(description="directory of the bundle; every node must see it")
    input: str = Field(
        description="a file, a directory or an s3:// URL with .jsonl, .txt (a text a line) or .parquet files"
    )
    output: str = Field(description="directory or s3:// URL that takes the annotated records; every node must see it")
    format: FormatName | Auto = Field("auto", description="format of the input; auto goes by the files' suffix")
    text_field: str = Field("text", min_length=1, description="field of a record that holds its text")
    field: str | None = Field(
        None, min_length=1, description="field that takes the answer; default: entities, or labels for classification"
    )
    parameters: Mapping[str, Any] = Field(
        default_factory=dict, description="how to answer, as in a request (aggregation_strategy, top_k, ...)"
    )
    overwrite: bool = Field(False, description="begin anew, whatever annotation stands at output")
    precision: str = Field(
        "auto",
        description="precision of the ONNX graph: fp32, fp16, bf16, int8, int4; auto takes the one for the hardware",
    )
    max_characters: int = Field(1_000_000, ge=1, description="characters of a text; longer ones are set aside")
    shard_mb: float | Auto = Field(
        "auto", description="input of one output file in MB: a number, or auto for 1/256 of it within 0.1 and 2"
    )
    workers: WorkersConfig = Field(default_factory=WorkersConfig)
    engine: ComputeConfig = Field(default_factory=ComputeConfig)
    cluster: ClusterConfig = Field(default_factory=lambda: ClusterConfig(dashboard=False))

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.shard_mb != "auto" and self.shard_mb <= 0:
            raise ValueError(f"shard_mb is {self.shard_mb}; allowed is 'auto' or a number above 0")
        if self.field == self.text_field:
            raise ValueError(f"field and text_field are both {self.field!r}; the answer needs a field of its own")
        return self
