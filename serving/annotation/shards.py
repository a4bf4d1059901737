"""Cuts the input files into shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Literal

from agent.config.base import Config
from agent.errors import DataError
from serving.annotation.formats import FORMATS
from serving.annotation.records import Fields, Format, Span
from serving.annotation.storage import File, StorageLocation
from serving.inference.session_plan import Auto

FormatName = Literal["jsonl", "text", "parquet"]
_MB = 1_000_000
_SMALLEST_MB, _LARGEST_MB, _SHARDS = 0.1, 2.0, 256
_OF_WRITERS = 0.1  # of that, since a text takes so much longer
_FILES_AT_ONCE = 8  # object storage answers after tens of milliseconds


class Shard(Config):
    """Records that are annotated and written together.

    Attributes:
        name: Name of the output file, without a suffix.
        file: The input file.
        start, stop: Range in bytes, or in rows of a Parquet file.
        first_line: Number of the first line or row, from 1.
        num_lines: Number of lines or rows.
    """

    name: str
    file: str
    start: int
    stop: int
    first_line: int
    num_lines: int


def choose_format(name: FormatName | Auto, files: Sequence[File], url: str) -> Format:
    """The format of the files: the named one, or for `auto` that of their suffixes.

    Raises:
        DataError: A suffix is not known, or they differ.
    """
    if name != "auto":
        return FORMATS[name]
    by_suffix = {format_.input_suffix: format_ for format_ in FORMATS.values()}
    for file in files:
        if PurePosixPath(file.path).suffix not in by_suffix:
            raise DataError(
                f"input file {file.path} is of no known format",
                allowed=", ".join(by_suffix),
                remedy=f"take it away, or say what all files are with format={' | '.join(FORMATS)}",
            )
    formats = {by_suffix[PurePosixPath(file.path).suffix].name for file in files}
    if len(formats) > 1:
        raise DataError(
            f"input {url} holds files of several formats ({', '.join(sorted(formats))})",
            allowed="one format in a run",
            remedy="annotate them one after the other, into outputs of their own",
        )
    return FORMATS[formats.pop()]


def cut_files(
    location: StorageLocation, files: Sequence[File], format_: Format, fields: Fields, size: int
) -> list[Shard]:
    """Cuts files into shards of about so many bytes, in order.

    Raises:
        DataError: A file cannot be read, or is none of that format.
    """
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        cuts = pool.map(lambda file: list(format_.cut(location, file.path, size, fields)), files)
        return list(_named(zip(files, cuts, strict=True)))


def _named(cuts: Iterable[tuple[File, list[Span]]]) -> Iterator[Shard]:
    spans = ((file.path, span) for file, found in cuts for span in found)
    for number, (path, (start, stop, first, count)) in enumerate(spans):
        yield Shard(name=f"part-{number:06}", file=path, start=start, stop=stop, first_line=first, num_lines=count)


def shard_bytes(shard_mb: float | Auto, total: int, *, writes: bool) -> int:
    """The size of a shard.

    Args:
        shard_mb: In MB where it is given.
        total: Bytes of all files.
        writes: Whether the agent writes; what is lost when it is interrupted should not take longer than with others.
    """
    if shard_mb == "auto":
        shard_mb = min(max(total / _SHARDS / _MB, _SMALLEST_MB), _LARGEST_MB) * (_OF_WRITERS if writes else 1)
    return max(1, int(shard_mb * _MB))
