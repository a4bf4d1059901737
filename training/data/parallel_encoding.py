"""Encodes the parts of large files in parallel on all cores of a cluster, with Ray Data."""

from __future__ import annotations

import os
import pickle
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.data.digests import example_digest
from agent.data.sources import SourcePart
from agent.data.splits import DataConfig
from agent.encoding import IGNORED, Encoder
from agent.errors import AgentError, DataError
from agent.tasks import BaseTask
from cluster.progress import Progress
from cluster.ray_data_logging import quiet
from training.data.packing import Int32, PackedWindows, pack


@dataclass(frozen=True)
class EncodedPart:
    """An encoded part; its windows lie in a file.

    Attributes:
        number: Which part.
        num_examples: Examples in it, possibly none.
        labels: Their labels, sorted, in the order of the targets in the file; those of the task if it has any.
    """

    number: int
    num_examples: int
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ParallelEncoding:
    """The parts to encode and what a Ray task on any node needs for that.

    Attributes:
        parts: Of all files, in order.
        task: With or without labels.
        encoder: For the model.
        directory: Where the windows of the parts are written.
        data: Says what becomes of words.
    """

    parts: Sequence[SourcePart]
    task: BaseTask[Any]
    encoder: Encoder
    directory: Path
    data: DataConfig

    def run(self) -> list[EncodedPart]:
        """Encodes all parts; returns them in order.

        Raises:
            DataError: As `encode`.
        """
        return sorted(self._encoded(), key=lambda part: part.number)

    def load(self, part: EncodedPart, outputs: Sequence[str]) -> tuple[PackedWindows, bytes]:
        """Reads the windows of a part, its targets numbered by `outputs` of the completed task, and the digests of its examples."""
        with np.load(self._file(part.number)) as arrays:
            windows = PackedWindows(**{field.name: arrays[field.name] for field in fields(PackedWindows)})
            digests = arrays["digests"].tobytes()
        if self.task.decision.of_vocabulary:  # targets that depend on no labels
            return windows, digests
        own = with_labels(self.task, part.labels).outputs
        targets = _renumber(windows.targets, own, outputs)
        binary = targets.ndim > 1  # then a window has a target for every output, those among them that the part lacks
        labelled = np.full(len(targets), len(outputs), np.int32) if binary else windows.labelled
        return replace(windows, targets=targets, labelled=labelled), digests

    def remove(self, part: EncodedPart) -> None:
        """Deletes the file of a part."""
        self._file(part.number).unlink()

    def encode(self, number: int) -> EncodedPart:
        """Reads and encodes one part and writes its file.

        Raises:
            DataError: A record is wrong, or this node cannot write to the directory.
        """
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each core encodes another part
        part, join = self.parts[number], self.data.join
        examples = [self.task.read_record(record, where, join=join) for record, where in part.read()]
        labels = self.task.labels or tuple(sorted(set().union(*map(self.task.labels_of, examples))))
        task = with_labels(self.task, labels)
        task.check_labels(examples)
        if examples:
            digests = np.frombuffer(b"".join(map(example_digest, examples)), np.uint8)
            self._write(number, pack(task, self.encoder, examples), digests)
        return EncodedPart(number, len(examples), labels)

    def _encoded(self) -> Iterator[EncodedPart]:
        """Parts as they are done. Errors are returned as values: Ray would print the trace of a raised one and retry."""
        import ray.data

        sizes = [part.num_bytes for part in self.parts]
        with quiet(), _progress(sum(sizes)) as progress:
            numbers = ray.data.range(len(self.parts), override_num_blocks=len(self.parts))
            for row in numbers.map(self._encode_row, num_cpus=1).iter_rows():
                outcome = pickle.loads(row["outcome"])  # noqa: S301  # written by a task of this program
                if isinstance(outcome, AgentError):
                    raise outcome
                progress.advance(sizes[outcome.number])
                yield outcome

    def _encode_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        outcome: EncodedPart | AgentError
        try:
            outcome = self.encode(int(row["id"]))
        except AgentError as error:
            outcome = error
        return {"outcome": pickle.dumps(outcome)}

    def _write(self, number: int, windows: PackedWindows, digests: Any) -> None:
        """Writes a part's file whole or not at all, since its task may run twice, even on two nodes."""
        file = self._file(number)
        draft = file.with_suffix(f".{uuid.uuid4().hex}")
        try:
            with draft.open("wb") as stream:  # fails where this node does not share the directory
                np.savez(stream, **vars(windows), digests=digests)
            draft.replace(file)
        except OSError as error:
            raise DataError(
                f"tokenised data cannot be written to {self.directory} on the node {platform.node()} ({error.strerror})",
                allowed="a directory with room that every node of the cluster can read and write",
                remedy="give one on storage that all nodes share as ingest.cache",
            ) from None

    def _file(self, number: int) -> Path:
        return self.directory / f"{number:06}.npz"


def with_labels(task: BaseTask[Any], labels: tuple[str, ...]) -> BaseTask[Any]:
    """The task with these labels, possibly none yet."""
    return task.model_copy(update={"labels": labels})


def _renumber(targets: Int32, outputs: Sequence[str], final: Sequence[str]) -> Int32:
    """Targets by `outputs` as targets by `final` outputs."""
    final_number = {name: number for number, name in enumerate(final)}
    numbers = np.array([final_number[name] for name in outputs], np.int32)
    if targets.ndim > 1:
        widened = np.zeros((len(targets), len(final)), np.int32)
        widened[:, numbers] = targets
        return widened
    renumbered = targets.copy()
    renumbered[targets != IGNORED] = numbers[targets[targets != IGNORED]]
    return renumbered


def _progress(num_bytes: int) -> Progress:
    return Progress("encoding", num_bytes, unit="B", rate=lambda per_s: f"{per_s / 1e6:.1f} MB/s")
