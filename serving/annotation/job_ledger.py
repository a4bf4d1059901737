"""The files of an annotation at its output: manifest, annotated shards and the progress of an unfinished job.

    manifest.json           what is annotated with which agent, every shard, and at the end the result
    part-000000.jsonl ...   annotated records
    rejected/part-*.jsonl   rejected records, where there are any
    progress/part-*.json    written after a shard's other files; removed when all shards are finished

A shard is finished when its progress file exists, which is written last; an interrupted one is written again under the same
names.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import Field, ValidationError

from agent.config.base import Config
from agent.config.resume_check import check_unchanged
from agent.errors import ConfigError, one_line
from serving.annotation.shards import Shard
from serving.annotation.storage import File, StorageLocation

MANIFEST = "manifest.json"
REJECTED, _PROGRESS = "rejected", "progress"
_DRAFTS = (".part-", f".{MANIFEST}.")  # prefixes of files that are being written
_VERSION = 2
_READ_AT_ONCE = 16  # small objects in S3


class ShardCounts(Config):
    """Counts of a shard's records.

    Attributes:
        records: Annotated records.
        rejected: Rejected records.
        tokens: Tokens that the agent read, special ones included.
        written: Tokens that it wrote; 0 where answers are no texts.
        answers: How often each label was given.
    """

    records: int = 0
    rejected: int = 0
    tokens: int = 0
    written: int = 0
    answers: Mapping[str, int] = Field(default_factory=dict)

    def __add__(self, other: ShardCounts) -> ShardCounts:
        counts = Counter(self.answers) + Counter(other.answers)
        return ShardCounts(
            records=self.records + other.records,
            rejected=self.rejected + other.rejected,
            tokens=self.tokens + other.tokens,
            written=self.written + other.written,
            answers=dict(sorted(counts.items())),
        )


class JobSpec(Config):
    """What is annotated, with which agent and how; a job is resumed only with the same specification."""

    bundle: str  # digest
    entities: str = ""  # digest of the tagger beside it
    precision: str
    input: str
    format: str
    text_field: str
    field: str
    parameters: Mapping[str, Any]
    max_characters: int
    shard_mb: float | str
    files: tuple[tuple[str, int, int], ...]  # path, bytes, modified in ns


class JobResult(Config):
    """The result of a job. `seconds` and `annotating_seconds` (first record to last) are those of the run that finished it."""

    counts: ShardCounts
    seconds: float
    annotating_seconds: float
    shards: Mapping[str, ShardCounts]


class AnnotationManifest(Config):
    """The content of `manifest.json`."""

    format_version: int = _VERSION
    key: str
    spec: JobSpec
    shards: tuple[Shard, ...]
    result: JobResult | None = None


class JobLedger:
    """The annotation at a location.

    Args:
        place: Location of its files.
    """

    def __init__(self, place: StorageLocation) -> None:
        self.place = place

    def find(self) -> AnnotationManifest | None:
        """The manifest; None if there is none.

        Raises:
            ConfigError: It is damaged or of another release, or the location holds other files.
        """
        raw = self.place.read(MANIFEST)
        if raw is None:
            self._check_empty()
            return None
        try:
            tree = json.loads(raw)
            if tree["format_version"] == _VERSION:
                return AnnotationManifest.model_validate(tree)
            what = f"is of format version {tree['format_version']!r}, not {_VERSION}"
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            what = f"is damaged ({one_line(error)})"
        raise ConfigError(
            f"{MANIFEST} of output {self.place.url} {what}", remedy="choose another output or set overwrite=true"
        )

    def exists(self) -> bool:
        """Whether there is an annotation, finished or not."""
        return self.place.read(MANIFEST) is not None

    def start(self, order: JobSpec, shards: Sequence[Shard]) -> AnnotationManifest:
        """Writes a new manifest after removing an earlier annotation."""
        self.clear()
        manifest = AnnotationManifest(key=uuid.uuid4().hex, spec=order, shards=tuple(shards))
        self._write(manifest)
        return manifest

    def clear(self) -> None:
        """Removes the files of an annotation, the manifest first, and no others."""
        names = self.place.names()
        for name in sorted(names, key=lambda name: name != MANIFEST):
            if name == MANIFEST or name.startswith(("part-", *_DRAFTS)):
                self.place.remove_file(name)
        for directory in (_PROGRESS, REJECTED):
            if directory in names:
                self.place.remove(directory)

    def finished_shards(self, manifest: AnnotationManifest, suffix: str) -> dict[str, ShardCounts]:
        """The counts of the finished shards, by name."""
        written = self.place.names()
        found = {name.removesuffix(".json") for name in self.place.names(_PROGRESS) if name.endswith(".json")}
        names = [shard.name for shard in manifest.shards if shard.name in found and shard.name + suffix in written]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            return dict(zip(names, pool.map(self._read_counts, names), strict=True))

    def commit(self, shard: Shard, files: Mapping[str, bytes], counts: ShardCounts) -> None:
        """Writes the files of a shard, its progress file last."""
        for name, content in files.items():
            self.place.write(name, content)
        self.place.write(f"{_PROGRESS}/{shard.name}.json", counts.model_dump_json().encode())

    def finish(
        self,
        manifest: AnnotationManifest,
        counts_by_shard: Mapping[str, ShardCounts],
        *,
        seconds: float,
        annotating_seconds: float,
    ) -> JobResult:
        """Writes the result to the manifest, and removes the progress files."""
        result = JobResult(
            counts=sum_counts(counts_by_shard.values()),
            seconds=round(seconds, 3),
            annotating_seconds=round(annotating_seconds, 3),
            shards=dict(sorted(counts_by_shard.items())),
        )
        self._write(manifest.model_copy(update={"result": result}))
        self.clean_up()
        return result

    def clean_up(self) -> None:
        """Removes progress files, and drafts of writers that were killed."""
        for directory in ("", f"{REJECTED}/"):
            for name in self.place.names(directory):
                if name.startswith(_DRAFTS):
                    self.place.remove_file(directory + name)
        self.place.remove(_PROGRESS)

    def _check_empty(self) -> None:
        if names := sorted(name for name in self.place.names() if not name.startswith(_DRAFTS)):
            raise ConfigError(
                f"output {self.place.url} exists and holds other things ({names[0]})",
                allowed="a new or an empty directory, or one that this command has written",
                remedy="choose another output",
            )

    def _read_counts(self, name: str) -> ShardCounts:
        raw = self.place.read(f"{_PROGRESS}/{name}.json")
        assert raw is not None, "listed a moment ago"
        return ShardCounts.model_validate_json(raw)

    def _write(self, manifest: AnnotationManifest) -> None:
        self.place.write(MANIFEST, json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False).encode())


def sum_counts(counts_by_shard: Iterable[ShardCounts]) -> ShardCounts:
    """The sum of counts."""
    return sum(counts_by_shard, ShardCounts())


def check_same(started: JobSpec, now: JobSpec, output: str) -> None:
    """Refuses to resume an annotation that was started with other settings, another agent or other files.

    Raises:
        ConfigError: Names what differs.
    """
    before, after = (spec.model_dump(mode="json", exclude={"files"}) for spec in (started, now))
    content = [_files_differ(started.files, now.files)] if started.files != now.files else []
    remedy = "give what it was started with, choose another output, or set overwrite=true"
    check_unchanged(f"the annotation in output {output}", before, after, content=content, remedy=remedy)


def _files_differ(before: Iterable[tuple[str, int, int]], after: Iterable[tuple[str, int, int]]) -> str:
    old, new = ({path: rest for path, *rest in files} for files in (before, after))
    changes = {
        "changed": [path for path in old.keys() & new.keys() if old[path] != new[path]],
        "gone": old.keys() - new.keys(),
        "new": new.keys() - old.keys(),
    }
    return "; ".join(f"input file {min(paths)} is {how}" for how, paths in changes.items() if paths)


def files_of(found: Iterable[File]) -> tuple[tuple[str, int, int], ...]:
    """The files as in `JobSpec.files`."""
    return tuple((file.path, file.num_bytes, file.modified_ns) for file in found)
