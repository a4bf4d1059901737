"""Which part of which file becomes which shard. Knows how files are cut, not what is in their records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

from agent.config.base import Config
from agent.errors import DataError
from serving.annotation.annotation_config import AnnotateConfig
from serving.annotation.formats import FORMATS
from serving.annotation.records import Fields, Format, Span
from serving.annotation.storage import File, StorageLocation

_MB = 1_000_000
_SMALLEST_MB, _LARGEST_MB, _SHARDS = 0.1, 2.0, 256
_FILES_AT_ONCE = 8  # of object storage, where each answers after tens of milliseconds


class Shard(Config):
    """Records that are answered and written together.

    Attributes:
        name: Of its output, without a suffix.
        file: Where its records lie.
        start, stop: Bytes of that file, or rows of a Parquet file.
        first_line: The number of its first line or row, from 1.
        num_lines: Lines or rows.
    """

    name: str
    file: str
    start: int
    stop: int
    first_line: int
    num_lines: int


def choose_format(config: AnnotateConfig, files: Sequence[File]) -> Format:
    """The one format that all files have.

    Raises:
        DataError: A file has none that is known, or they differ.
    """
    if config.format != "auto":
        return FORMATS[config.format]
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
            f"input {config.input} holds files of several formats ({', '.join(sorted(formats))})",
            allowed="one format in a run",
            remedy="annotate them one after the other, into outputs of their own",
        )
    return FORMATS[formats.pop()]


def cut(
    config: AnnotateConfig, fields: Fields, place: StorageLocation, files: Sequence[File], format_: Format
) -> list[Shard]:
    """Cuts files into shards, in their order.

    Raises:
        DataError: A file cannot be read, or is none of that format.
    """
    size = _shard_bytes(config, sum(file.num_bytes for file in files))
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        cuts = pool.map(lambda file: list(format_.cut(place, file.path, size, fields)), files)
        return list(_named(zip(files, cuts, strict=True)))


def _named(cuts: Iterable[tuple[File, list[Span]]]) -> Iterator[Shard]:
    spans = ((file.path, span) for file, found in cuts for span in found)
    for number, (path, (start, stop, first, count)) in enumerate(spans):
        yield Shard(name=f"part-{number:06}", file=path, start=start, stop=stop, first_line=first, num_lines=count)


def _shard_bytes(config: AnnotateConfig, total: int) -> int:
    wanted = total / _SHARDS / _MB if config.shard_mb == "auto" else config.shard_mb
    bounded = min(max(wanted, _SMALLEST_MB), _LARGEST_MB) if config.shard_mb == "auto" else wanted
    return max(1, int(bounded * _MB))
