"""The formats of records: how a file is cut, how its texts are read, how answers are put beside them. Knows no agent."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from agent.errors import DataError
from serving.annotation.storage import StorageLocation

Span = tuple[int, int, int, int]
"""Start and stop (bytes or rows), number of the first line or row, how many there are."""

Answer = list[dict[str, Any]]
_PIECE = 1 << 20
_LONGEST_LINE = 64 << 20  # bytes; a longer one is no record but another kind of file


@dataclass(frozen=True, slots=True)
class Fields:
    """What is read of a record and added to it.

    Attributes:
        text, answer: Names of fields.
        answer_item: What an answer is a list of.
        max_characters: The limit of a text.
    """

    text: str
    answer: str
    answer_item: type[BaseModel]
    max_characters: int

    def fault(self, value: Any) -> str:
        """Why a text cannot be answered; empty if it can."""
        if not isinstance(value, str):
            return f"field {self.text!r} is {_kind(value)}, no string"
        if not value.strip():
            return "the text is empty"
        if len(value) > self.max_characters:
            return f"a text of {len(value)} characters, beyond max_characters={self.max_characters}"
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"no Unicode text: a lone surrogate at character {error.start}"
        return ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that is set aside. `raw` is what cannot be spelled as a string."""

    line: int
    record: str
    reason: str
    raw: bytes | None = None

    def as_json(self, file: str) -> str:
        """As a line of the `rejected` files."""
        found: dict[str, Any] = {"record": self.record, "reason": self.reason, "file": file, "line": self.line}
        if self.raw is not None:
            found["record_base64"] = base64.b64encode(self.raw).decode()
        return json.dumps(found, ensure_ascii=False)


class Content(ABC):
    """The records of a shard: the texts to answer, in order, and what was set aside."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.texts: list[str] = []
        self.rejected: list[Rejected] = []

    @abstractmethod
    def render(self, answers: Sequence[Answer]) -> bytes:
        """The output file: every record that has an answer, with it."""


class Format(ABC):
    """A kind of file."""

    name: ClassVar[str]
    input_suffix: ClassVar[str]
    output_suffix: ClassVar[str]

    @abstractmethod
    def cut(self, place: StorageLocation, path: str, shard_bytes: int, fields: Fields) -> Iterator[Span]:
        """Cuts a file into spans of whole records.

        Raises:
            DataError: It cannot be read, or is of another format.
        """

    @abstractmethod
    def read(self, place: StorageLocation, path: str, span: Span, fields: Fields) -> Content:
        """Reads a span.

        Raises:
            DataError: It cannot be read.
        """


class LineContent(Content):
    """Records that are lines; each is written as its `heads`, the answer, and a closing brace."""

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields)
        self.heads: list[str] = []

    def render(self, answers: Sequence[Answer]) -> bytes:
        """The record's own characters stay as they were."""
        name = json.dumps(self.fields.answer, ensure_ascii=False)
        lines = [
            f"{head}, {name}: {json.dumps(answer, ensure_ascii=False)}}}\n"
            for head, answer in zip(self.heads, answers, strict=True)
        ]
        return "".join(lines).encode()


class LineFormat(Format):
    """A record a line."""

    output_suffix = ".jsonl"

    @abstractmethod
    def take(self, line: str, fields: Fields) -> tuple[str, str] | str | None:
        """Reads a line: (its text, the head of the output's line), or why it is set aside; None: it is no record."""

    def cut(self, place: StorageLocation, path: str, shard_bytes: int, fields: Fields) -> Iterator[Span]:
        """Cuts behind the first line end after `shard_bytes`; reads the file once, holding one shard."""
        with place.lines(path) as stream:
            start, line = 0, 1
            while block := stream.read(shard_bytes):
                size, count = len(block), block.count(b"\n")
                if not block.endswith(b"\n"):
                    size, count = size + _skip_line(stream), count + 1
                yield start, start + size, line, count
                start, line = start + size, line + count

    def read(self, place: StorageLocation, path: str, span: Span, fields: Fields) -> LineContent:
        """Reads lines; those that are no records of this format are set aside."""
        start, stop, first, _ = span
        content = LineContent(fields)
        with place.lines(path, start) as stream:
            for number, (raw, size) in enumerate(_lines(stream, stop - start, path), start=first):
                self._add(content, number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, size)
        return content

    def _add(self, content: LineContent, number: int, raw: bytes, size: int) -> None:
        if size > len(raw) + len(b"\xef\xbb\xbf"):
            start = raw[:1_000].decode(errors="replace")
            content.rejected.append(Rejected(number, start, f"a line of {size} bytes, of which this is the beginning"))
            return
        try:
            line = raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            reason = f"no UTF-8: byte {error.start + 1} of the line (0x{raw[error.start]:02x})"
            content.rejected.append(Rejected(number, raw.decode(errors="replace").rstrip("\r\n"), reason, raw))
            return
        taken = self.take(line, content.fields)
        if isinstance(taken, str):
            content.rejected.append(Rejected(number, line, taken))
        elif taken:
            content.texts.append(taken[0])
            content.heads.append(taken[1])


class JsonLines(LineFormat):
    """One JSON object a line; blank lines are no records."""

    name, input_suffix = "jsonl", ".jsonl"

    def take(self, line: str, fields: Fields) -> tuple[str, str] | str | None:
        """Reads an object; its head is the object without the closing brace."""
        line = line.strip()
        if not line:
            return None
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"no JSON ({error})"
        if not isinstance(record, dict):
            return f"JSON, but {_kind(record)} and no object"
        if fields.text not in record:
            return f"field {fields.text!r} is missing"
        if fields.answer in record:
            return f"field {fields.answer!r}, which takes the answer, is there already; choose another with field=..."
        text = record[fields.text]
        return fields.fault(text) or (text, line[:-1].rstrip())


class Text(LineFormat):
    """One text a line; an empty line is a record without text."""

    name, input_suffix = "text", ".txt"

    def take(self, line: str, fields: Fields) -> tuple[str, str] | str | None:
        """Reads a text; its head is an object that holds it."""
        return fields.fault(line) or (line, json.dumps({fields.text: line}, ensure_ascii=False)[:-1])


def _lines(stream: Any, size: int, path: str) -> Iterator[tuple[bytes, int]]:
    """Yields (line with its end, its bytes) up to a size; of a line that is too long only the beginning."""
    while size > 0:
        raw = stream.readline(_LONGEST_LINE)
        if not raw:
            raise DataError(
                f"{path} has become shorter since its lines were counted",
                remedy="begin anew with overwrite=true when nothing writes to it any more",
            )
        length = len(raw)
        if length == _LONGEST_LINE and not raw.endswith(b"\n"):
            length += _skip_line(stream)
        yield raw, length
        size -= length


def _skip_line(stream: Any) -> int:
    """Reads to the end of a line in pieces; returns the bytes."""
    size = 0
    while piece := stream.readline(_PIECE):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _kind(value: Any) -> str:
    names: Mapping[type, str] = {
        type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def rejected_lines(rejected: Iterable[Rejected], file: str) -> bytes:
    """The content of a `rejected` file."""
    return "".join(item.as_json(file) + "\n" for item in rejected).encode()
