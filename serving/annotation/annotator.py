"""Annotates shards in a worker process of Ray Data."""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from agent.bundle import Bundle
from agent.errors import AgentError, BundleError, ConfigError
from agent.tasks import Parameters
from serving.annotation.formats import FORMATS
from serving.annotation.job_ledger import REJECTED, AnnotationManifest, JobLedger, ShardCounts
from serving.annotation.records import Annotation, Fields, rejected_lines
from serving.annotation.shards import Shard
from serving.annotation.storage import StorageLocation
from serving.inference.engine import EngineConfig
from serving.inference.engine_choice import open_engine
from serving.inference.served_engine import ServedEngine


@dataclass(frozen=True)
class AnnotatorTask:
    """What a worker needs to annotate shards of a job."""

    manifest: AnnotationManifest
    bundle: str
    entities: str
    output: str
    fields: Fields
    parameters: Parameters
    engine: EngineConfig
    num_cpus: int


@dataclass(frozen=True)
class ShardResult:
    """A finished shard. `started` and `ended` are seconds since the epoch."""

    name: str
    counts: ShardCounts
    started: float
    ended: float


class Annotator:
    """Annotates shards; Ray Data makes one in each worker."""

    def __init__(self, task: AnnotatorTask) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every worker has cores of its own
        self._task = task
        self._engine: ServedEngine | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Annotates the shards of a batch. Errors are returned, since Ray would retry if they were raised."""
        return {"result": [pickle.dumps(self._attempt(int(number))) for number in batch["number"]]}

    def _attempt(self, number: int) -> ShardResult | AgentError:
        try:
            return self._annotate(self._task.manifest.shards[number])
        except AgentError as error:
            return error

    def _annotate(self, shard: Shard) -> ShardResult:
        started = time.time()
        engine, spec = self._open_engine(), self._task.manifest.spec
        format_, parameters, task = FORMATS[spec.format], self._task.parameters, engine.bundle.task
        fields = replace(self._task.fields, refusal_of=lambda text: engine.refusal_of(text, parameters))
        span = (shard.start, shard.stop, shard.first_line, shard.num_lines)
        content = format_.read(StorageLocation(spec.input), shard.file, span, fields)
        annotations, counts, read, written = list[Annotation](), Counter[str](), 0, 0
        for part in engine.annotate(content.texts, parameters):
            annotations += map(task.annotation, part.answers)
            counts.update(label for answer in part.answers for label, _ in task.counted(answer))
            read, written = read + part.num_read, written + part.num_written
        shard_counts = ShardCounts(
            records=len(annotations), rejected=len(content.rejected), tokens=read, written=written, answers=counts
        )
        files = {}
        if content.rejected:
            files[f"{REJECTED}/{shard.name}.jsonl"] = rejected_lines(content.rejected, shard.file)
        files[shard.name + format_.output_suffix] = content.render(annotations)
        JobLedger(StorageLocation(self._task.output)).commit(shard, files, shard_counts)
        return ShardResult(shard.name, shard_counts, started, time.time())

    def _open_engine(self) -> ServedEngine:
        """The engine, opened with the first shard, so that its errors are returned like others."""
        if self._engine is None:
            task = self._task
            self._check_output()
            bundle = _load(task.bundle, task.manifest.spec.bundle)
            if task.entities:
                bundle = bundle.beside(_load(task.entities, task.manifest.spec.entities))
            self._engine = open_engine(
                bundle, task.engine, precision=task.manifest.spec.precision, num_cpus=task.num_cpus
            )
        return self._engine

    def _check_output(self) -> None:
        found = JobLedger(StorageLocation(self._task.output)).find()
        if found is None or found.key != self._task.manifest.key:
            raise ConfigError(
                f"the node {platform.node()} does not see the output {self._task.output}",
                allowed="a directory that every node of the cluster can read and write, or s3://bucket/prefix",
                remedy="choose another output",
            )


def _load(path: str, digest: str) -> Bundle:
    bundle = Bundle.load(path)
    if bundle.digest != digest:
        raise BundleError(
            f"the bundle {path} on the node {platform.node()} is another one",
            remedy="put it where every node sees the same",
        )
    return bundle
