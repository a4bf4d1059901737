"""Annotates shards in a process that Ray Data started. Knows one shard at a time."""

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
from serving.annotation.job_ledger import REJECTED, JobLedger, Manifest, ShardCounts
from serving.annotation.records import Answer, Fields, rejected_lines
from serving.annotation.shards import Shard
from serving.annotation.storage import StorageLocation
from serving.inference.engine import Engine, EngineConfig

_WINDOW = 4_096  # texts that are sorted by length together: padding below 1%, some MB of tokens


@dataclass(frozen=True)
class Assignment:
    """Everything that a worker on any node needs."""

    manifest: Manifest
    bundle: str
    output: str
    fields: Fields
    parameters: Parameters
    engine: EngineConfig
    num_cpus: int


@dataclass(frozen=True)
class Outcome:
    """A shard that is done. `began` and `ended` are seconds since the epoch."""

    name: str
    tally: ShardCounts
    began: float
    ended: float


class _Running(NamedTuple):
    """Texts that are being computed."""

    texts: Sequence[str]
    documents: list[Document]
    outputs: Future[list[list[Float32]]]


class Annotator:
    """What each worker holds.

    Args:
        assignment: What to do.
    """

    def __init__(self, assignment: Assignment) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every worker has cores of its own
        self._task = assignment
        self._engine: Engine | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Annotates the shards of a batch. An error comes back as a value: raised here, Ray would try again."""
        return {"outcome": [pickle.dumps(self._attempt(int(number))) for number in batch["number"]]}

    def _attempt(self, number: int) -> Outcome | AgentError:
        try:
            return self._annotate(self._task.manifest.shards[number])
        except AgentError as error:
            return error

    def _annotate(self, shard: Shard) -> Outcome:
        began = time.time()
        engine, order = self._opened(), self._task.manifest.order
        format_, fields = FORMATS[order.format], self._task.fields
        span = (shard.start, shard.stop, shard.first_line, shard.num_lines)
        content = format_.read(StorageLocation(order.input), shard.file, span, fields)
        answers, tokens = list[Answer](), 0
        for documents, found in self._windows(engine, content.texts):
            answers += found
            tokens += sum(document.num_tokens for document in documents)
        counts = Counter(label for answer in answers for label, _ in engine.bundle.task.counted(answer))
        tally = ShardCounts(records=len(answers), rejected=len(content.rejected), tokens=tokens, answers=counts)
        files = {}
        if content.rejected:
            files[f"{REJECTED}/{shard.name}.jsonl"] = rejected_lines(content.rejected, shard.file)
        files[shard.name + format_.output_suffix] = content.render(answers)
        JobLedger(StorageLocation(self._task.output)).commit(shard, files, tally)
        return Outcome(shard.name, tally, began, time.time())

    def _windows(self, engine: Engine, texts: Sequence[str]) -> Iterator[tuple[list[Document], list[Answer]]]:
        """Answers texts in order: every session has a window to compute, while one more is tokenised or decoded here."""
        running = deque[_Running]()
        with ThreadPoolExecutor(engine.plan.sessions) as sessions:
            for first in range(0, len(texts), _WINDOW):
                window = texts[first : first + _WINDOW]
                documents = engine.encode(window)
                running.append(_Running(window, documents, sessions.submit(engine.run, documents)))
                if len(running) > engine.plan.sessions:
                    yield self._decode(engine, running.popleft())
            while running:
                yield self._decode(engine, running.popleft())

    def _decode(self, engine: Engine, window: _Running) -> tuple[list[Document], list[Answer]]:
        outputs = window.outputs.result()
        return window.documents, engine.answer(window.texts, window.documents, outputs, self._task.parameters)

    def _opened(self) -> Engine:
        """The engine, opened with the first shard: what it refuses then is told as any other error."""
        if self._engine is None:
            task = self._task
            self._check_output()
            bundle = Bundle.load(task.bundle)
            if bundle.digest != task.manifest.order.bundle:
                raise BundleError(
                    f"the bundle {task.bundle} on the node {platform.node()} is another one",
                    remedy="put it where every node sees the same",
                )
            self._engine = Engine(bundle, task.engine, precision=task.manifest.order.precision, num_cpus=task.num_cpus)
        return self._engine

    def _check_output(self) -> None:
        found = JobLedger(StorageLocation(self._task.output)).find()
        if found is None or found.key != self._task.manifest.key:
            raise ConfigError(
                f"the node {platform.node()} does not see the output {self._task.output}",
                allowed="a directory that every node of the cluster can read and write, or s3://bucket/prefix",
                remedy="choose another output",
            )
