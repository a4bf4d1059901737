"""Lines of a text file with their numbers, decoded strictly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.errors import DataError


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, line without its end). Only LF and CRLF end a line; a UTF-8 byte-order mark is dropped.

    Raises:
        DataError: The file cannot be read, or a line is no UTF-8.
    """
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                yield number, _decode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, f"{file}:{number}")
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror})", remedy="check the path and its permissions"
        ) from None


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is no UTF-8",
            allowed="UTF-8 text",
            remedy="convert the file, for instance with iconv -f latin1 -t utf-8",
        ) from None
