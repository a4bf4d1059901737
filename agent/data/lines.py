"""Lines of a text file (gzip and xz too), or of a part of it, with their numbers, decoded strictly. Knows when a part may end, not what lines mean."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from agent.errors import DataError

_PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ": lzma.open,
}  # what packed files begin with
_PACKED_SUFFIXES = (".gz", ".xz")


@dataclass(frozen=True, slots=True)
class Part:
    """A run of whole records of a file.

    Attributes:
        file: Where it lies.
        start, stop: Bytes; without `stop` to the end.
        first_line: The number of its first line in the file, from 1.
    """

    file: Path
    start: int = 0
    stop: int | None = None
    first_line: int = 1


def numbered_lines(part: Part) -> Iterator[tuple[int, str]]:
    """Yields (number in the file from 1, line without its end). Only LF and CRLF end a line; a UTF-8 byte-order mark is dropped.

    Raises:
        DataError: The file cannot be read, or a line is no UTF-8.
    """
    with open_file(part.file) as stream:
        for number, raw in enumerate(_lines(stream, part), start=part.first_line):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            yield number, _decode(line, f"{part.file}:{number}")


def read_text(file: Path) -> str:
    """A whole file; a UTF-8 byte-order mark is dropped, line ends stay as they are.

    Raises:
        DataError: The file cannot be read, or is no UTF-8; names the line.
    """
    with open_file(file) as stream:
        raw = stream.read()
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        for number, line in enumerate(raw.split(b"\n"), start=1):
            _decode(line, f"{file}:{number}")
        raise  # a line of its own is wrong where the whole is


def unpacked_name(file: Path) -> str:
    """The name of a file without the suffix that says how it is packed."""
    return file.stem if file.suffix in _PACKED_SUFFIXES else file.name


def is_packed(file: Path) -> bool:
    """Whether a file is gzip or xz, by its content.

    Raises:
        DataError: It cannot be read.
    """
    return _unpacker(file) is not None


@contextmanager
def open_file(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, unpacked if it is gzip or xz, whatever its name.

    Raises:
        DataError: The file cannot be read, or what is packed in it is damaged; also while it is read.
    """
    unpack = _unpacker(file)
    try:
        with file.open("rb") as raw:
            yield cast(BinaryIO, unpack(raw)) if unpack else raw
    except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error) as error:
        kind = "xz" if unpack is lzma.open else "gzip"
        raise DataError(f"{file} is damaged {kind} ({error})", remedy="get the file again") from None
    except OSError as error:
        raise _unreadable(file, error) from None


def cut_file(file: Path, part_bytes: int, ends_record: Callable[[bytes], bool]) -> tuple[list[Part], str]:
    """Cuts a file into parts of whole records, reading it once from end to end and holding one part at a time.

    Args:
        file: What to cut.
        part_bytes: How long a part is at least, but for the last.
        ends_record: Whether no record goes on beyond a line, given with its end.

    Returns:
        The parts in order, and the sha256 of the file's bytes.

    Raises:
        DataError: The file cannot be read.
    """
    digest, parts, start, line = hashlib.sha256(), list[Part](), 0, 1
    try:
        with file.open("rb") as stream:
            while block := stream.read(part_bytes):
                block += _rest_of_record(stream, block, ends_record)
                digest.update(block)
                parts.append(Part(file, start, start + len(block), line))
                start, line = start + len(block), line + block.count(b"\n")
    except OSError as error:
        raise _unreadable(file, error) from None
    return parts, digest.hexdigest()


def _unpacker(file: Path) -> Callable[..., Any] | None:
    try:
        with file.open("rb") as raw:
            head = raw.read(8)
    except OSError as error:
        raise _unreadable(file, error) from None
    return next((unpack for magic, unpack in _PACKED.items() if head.startswith(magic)), None)


def _lines(stream: BinaryIO, part: Part) -> Iterator[bytes]:
    stream.seek(part.start)
    position = part.start
    for raw in stream:
        yield raw
        position += len(raw)
        if part.stop is not None and position >= part.stop:
            return


def _rest_of_record(stream: BinaryIO, block: bytes, ends_record: Callable[[bytes], bool]) -> bytes:
    last = block[block.rfind(b"\n", 0, -1) + 1 :]
    rest = b"" if last.endswith(b"\n") else stream.readline()
    lines = [rest]
    last += rest
    while last and not ends_record(last):
        last = stream.readline()
        lines.append(last)
    return b"".join(lines)


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is no UTF-8",
            allowed="UTF-8 text",
            remedy="convert the file, for instance with iconv -f latin1 -t utf-8",
        ) from None


def _unreadable(file: Path, error: OSError) -> DataError:
    return DataError(f"{file} cannot be read ({error.strerror})", remedy="check the path and its permissions")
