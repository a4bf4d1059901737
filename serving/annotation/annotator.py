"""Annotates shards in a worker process of Ray Data."""

from __future__ import annotations

import os
import pickle
import platform
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from agent.bundle import Bundle
from agent.encoding import Document, Float32
from agent.errors import AgentError, BundleError, ConfigError
from agent.tasks import Parameters
from serving.annotation.formats import FORMATS
from serving.annotation.job_ledger import REJECTED, AnnotationManifest, JobLedger, ShardCounts
from serving.annotation.records import Answer, Fields, rejected_lines
from serving.annotation.shards import Shard
from serving.annotation.storage import StorageLocation
from serving.inference.engine import Engine, EngineConfig
from serving.inference.triple_engine import TripleEngine, open_graph_engine

_WINDOW = 4_096  # texts that are sorted by length together; padding is below 1%, memory some MB


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


class _Running(NamedTuple):
    """Texts whose logits are being computed."""

    texts: Sequence[str]
    documents: list[Document]
    outputs: Future[list[list[Float32]]]


class Annotator:
    """Annotates shards; Ray Data makes one in each worker."""

    def __init__(self, task: AnnotatorTask) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every worker has cores of its own
        self._task = task
        self._engine: Engine | None = None

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
        format_, fields = FORMATS[spec.format], self._task.fields
        span = (shard.start, shard.stop, shard.first_line, shard.num_lines)
        content = format_.read(StorageLocation(spec.input), shard.file, span, fields)
        answers, tokens = list[Answer](), 0
        for found, num_tokens in self._windows(engine, content.texts):
            answers += found
            tokens += num_tokens
        counts = Counter(label for answer in answers for label, _ in engine.bundle.task.counted(answer))
        shard_counts = ShardCounts(records=len(answers), rejected=len(content.rejected), tokens=tokens, answers=counts)
        files = {}
        if content.rejected:
            files[f"{REJECTED}/{shard.name}.jsonl"] = rejected_lines(content.rejected, shard.file)
        files[shard.name + format_.output_suffix] = content.render(answers)
        JobLedger(StorageLocation(self._task.output)).commit(shard, files, shard_counts)
        return ShardResult(shard.name, shard_counts, started, time.time())

    def _windows(self, engine: Engine, texts: Sequence[str]) -> Iterator[tuple[list[Answer], int]]:
        """Annotates texts in order, and counts tokens; every session computes a window while this thread tokenises or decodes another."""
        if isinstance(engine, TripleEngine):
            for first in range(0, len(texts), _WINDOW):
                yield engine.predict_counted(texts[first : first + _WINDOW], self._task.parameters)
            return
        running = deque[_Running]()
        with ThreadPoolExecutor(engine.plan.sessions) as sessions:
            for first in range(0, len(texts), _WINDOW):
                window = texts[first : first + _WINDOW]
                documents = engine.encode(window, self._task.parameters)
                running.append(_Running(window, documents, sessions.submit(engine.run, documents)))
                if len(running) > engine.plan.sessions:
                    yield self._decode(engine, running.popleft())
            while running:
                yield self._decode(engine, running.popleft())

    def _decode(self, engine: Engine, window: _Running) -> tuple[list[Answer], int]:
        outputs = window.outputs.result()
        answers = engine.answer(window.texts, window.documents, outputs, self._task.parameters)
        return answers, sum(document.num_tokens for document in window.documents)

    def _open_engine(self) -> Engine:
        """The engine, opened with the first shard, so that its errors are returned like others."""
        if self._engine is None:
            task = self._task
            self._check_output()
            bundle = _load(task.bundle, task.manifest.spec.bundle)
            if task.entities:
                bundle = bundle.beside(_load(task.entities, task.manifest.spec.entities))
            self._engine = open_graph_engine(
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
