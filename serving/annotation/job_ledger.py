"""What stands at an output: the manifest, which shards are done, and what they hold. Knows nothing of Ray and engines.

    manifest.json           what is annotated with which agent, and every shard; at the end, how it went
    part-000000.jsonl ...   the annotated records
    rejected/part-*.jsonl   what was set aside, where there is any
    progress/part-*.json    written after a shard's other files; gone when all are done

A shard counts as done when its progress file stands, which is written last; one that was interrupted is written again,
under the same names.
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
_DRAFTS = (".part-", f".{MANIFEST}.")  # names that storage gives to files that are being written
_VERSION = 1
_READ_AT_ONCE = 16  # small objects of S3


class ShardCounts(Config):
    """What was made of records.

    Attributes:
        records: With an answer.
        rejected: Set aside.
        tokens: That the agent read, special ones included.
        answers: How often each label was given.
    """

    records: int = 0
    rejected: int = 0
    tokens: int = 0
    answers: Mapping[str, int] = Field(default_factory=dict)

    def __add__(self, other: ShardCounts) -> ShardCounts:
        counts = Counter(self.answers) + Counter(other.answers)
        return ShardCounts(
            records=self.records + other.records,
            rejected=self.rejected + other.rejected,
            tokens=self.tokens + other.tokens,
            answers=dict(sorted(counts.items())),
        )


class JobOrder(Config):
    """What is to be annotated, with which agent and how: another order is another annotation."""

    bundle: str
    precision: str
    input: str
    format: str
    text_field: str
    field: str
    parameters: Mapping[str, Any]
    max_characters: int
    shard_mb: float | str
    files: tuple[tuple[str, int, int], ...]


class Finish(Config):
    """How it went. `seconds` and `annotating_seconds` (first record to last) are those of the run that ended it."""

    tally: ShardCounts
    seconds: float
    annotating_seconds: float
    shards: Mapping[str, ShardCounts]


class Manifest(Config):
    """What `manifest.json` says. Each file is (path, bytes, modified in ns); `bundle` is a digest."""

    format_version: int = _VERSION
    key: str
    order: JobOrder
    shards: tuple[Shard, ...]
    finish: Finish | None = None


class JobLedger:
    """The annotation at one place.

    Args:
        place: Where its files are.
    """

    def __init__(self, place: StorageLocation) -> None:
        self.place = place

    def find(self) -> Manifest | None:
        """The manifest that stands there.

        Raises:
            ConfigError: It is damaged or of another release, or the place holds something else.
        """
        raw = self.place.read(MANIFEST)
        if raw is None:
            self._check_empty()
            return None
        try:
            tree = json.loads(raw)
            if tree["format_version"] == _VERSION:
                return Manifest.model_validate(tree)
            what = f"is of format version {tree['format_version']!r}, not {_VERSION}"
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            what = f"is damaged ({one_line(error)})"
        raise ConfigError(
            f"{MANIFEST} of output {self.place.url} {what}", remedy="choose another output or set overwrite=true"
        )

    def is_annotation(self) -> bool:
        """Whether an annotation stands there, in whatever state."""
        return self.place.read(MANIFEST) is not None

    def begin(self, order: JobOrder, shards: Sequence[Shard]) -> Manifest:
        """Writes a manifest; what stood there before is removed, the manifest first."""
        self.clear()
        manifest = Manifest(key=uuid.uuid4().hex, order=order, shards=tuple(shards))
        self._write(manifest)
        return manifest

    def clear(self) -> None:
        """Removes an annotation, and nothing else."""
        names = self.place.names()
        for name in sorted(names, key=lambda name: name != MANIFEST):
            if name == MANIFEST or name.startswith(("part-", *_DRAFTS)):
                self.place.remove_file(name)
        for directory in (_PROGRESS, REJECTED):
            if directory in names:
                self.place.remove(directory)

    def done(self, manifest: Manifest, suffix: str) -> dict[str, ShardCounts]:
        """The shards that are done, with what they hold."""
        written = self.place.names()
        found = {name.removesuffix(".json") for name in self.place.names(_PROGRESS) if name.endswith(".json")}
        names = [shard.name for shard in manifest.shards if shard.name in found and shard.name + suffix in written]
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            return dict(zip(names, pool.map(self._tally, names), strict=True))

    def commit(self, shard: Shard, files: Mapping[str, bytes], tally: ShardCounts) -> None:
        """Writes the files of a shard, and then that it is done."""
        for name, content in files.items():
            self.place.write(name, content)
        self.place.write(f"{_PROGRESS}/{shard.name}.json", tally.model_dump_json().encode())

    def end(
        self, manifest: Manifest, tallies: Mapping[str, ShardCounts], *, seconds: float, annotating_seconds: float
    ) -> Finish:
        """Says in the manifest that all is done, and how it went."""
        finish = Finish(
            tally=total(tallies.values()),
            seconds=round(seconds, 3),
            annotating_seconds=round(annotating_seconds, 3),
            shards=dict(sorted(tallies.items())),
        )
        self._write(manifest.model_copy(update={"finish": finish}))
        self.tidy()
        return finish

    def tidy(self) -> None:
        """Removes what a finished annotation needs no more, and what writers left unfinished when they were killed."""
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

    def _tally(self, name: str) -> ShardCounts:
        raw = self.place.read(f"{_PROGRESS}/{name}.json")
        assert raw is not None, "listed a moment ago"
        return ShardCounts.model_validate_json(raw)

    def _write(self, manifest: Manifest) -> None:
        self.place.write(MANIFEST, json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False).encode())


def total(tallies: Iterable[ShardCounts]) -> ShardCounts:
    """All together."""
    return sum(tallies, ShardCounts())


def check_same(started: JobOrder, now: JobOrder, output: str) -> None:
    """Refuses to resume an annotation that was started with other settings, another agent or other files.

    Raises:
        ConfigError: Names what differs.
    """
    before, after = (order.model_dump(mode="json", exclude={"files"}) for order in (started, now))
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
    """Files as an order names them."""
    return tuple((file.path, file.num_bytes, file.modified_ns) for file in found)
