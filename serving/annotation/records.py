"""The formats of records: how a file is cut, its texts are read and answers are added."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import DataError
from agent.windows.text_pairs import TextPair
from serving.annotation.storage import StorageLocation

Span = tuple[int, int, int, int]
"""Start and stop (bytes or rows), number of the first line or row, number of lines or rows."""

Annotation = list[dict[str, Any]] | str
"""What a record is given: an answer, or a text."""

_PIECE = 1 << 20
_LONGEST_LINE = 64 << 20  # bytes; a file with longer lines has another format


def _takes_all(_: str) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a record that are read and added.

    Attributes:
        text, answer: Names of the fields; without an answer (empty) records are only read.
        answer_type: Of what `answer` takes: a list of models, or a string.
        max_characters: Maximum length of a text.
        others: Names of the further texts of an input that has several.
        refusal_of: Why the agent takes no such input; empty where it does.
    """

    text: str
    answer: str
    answer_type: Any
    max_characters: int
    others: tuple[str, ...] = ()
    refusal_of: Callable[[str], str] = _takes_all

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of all fields that are read."""
        return self.text, *self.others

    def read(self, values: Sequence[Any]) -> tuple[str, str]:
        """The input that the values of `texts` are, and why it is rejected; empty if it is not."""
        for name, value in zip(self.texts, values, strict=True):
            if reason := self.rejection_reason(value, name):
                return "", reason
        text = TextPair(*values) if self.others else values[0]
        reason = self.refusal_of(text)
        return ("", reason) if reason else (text, "")

    def rejection_reason(self, value: Any, name: str) -> str:
        """Why the text of a field is rejected; empty if it is not."""
        if not isinstance(value, str):
            return f"field {name!r} is {_kind(value)}, no string"
        if not value.strip():
            return "the text is empty" if not self.others else f"the text of field {name!r} is empty"
        if len(value) > self.max_characters:
            return f"a text of {len(value)} characters, beyond max_characters={self.max_characters}"
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"no Unicode text: a lone surrogate at character {error.start}"
        return ""


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A rejected record. `raw` are its bytes if they are not UTF-8."""

    line: int
    record: str
    reason: str
    raw: bytes | None = None

    def as_json(self, file: str) -> str:
        """A line of a `rejected` file."""
        found: dict[str, Any] = {"record": self.record, "reason": self.reason, "file": file, "line": self.line}
        if self.raw is not None:
            found["record_base64"] = base64.b64encode(self.raw).decode()
        return json.dumps(found, ensure_ascii=False)


class ShardContent(ABC):
    """The records of a shard: the texts to annotate, in order, and the rejected records."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.texts: list[str] = []
        self.rejected: list[RejectedRecord] = []

    @abstractmethod
    def render(self, answers: Sequence[Annotation]) -> bytes:
        """The content of the output file: every annotated record with its answer."""


class Format(ABC):
    """A file format."""

    name: ClassVar[str]
    input_suffix: ClassVar[str]
    output_suffix: ClassVar[str]

    @abstractmethod
    def cut(self, location: StorageLocation, path: str, shard_bytes: int, fields: Fields) -> Iterator[Span]:
        """Cuts a file into spans of whole records.

        Raises:
            DataError: The file cannot be read, or has another format.
        """

    @abstractmethod
    def read(self, location: StorageLocation, path: str, span: Span, fields: Fields) -> ShardContent:
        """Reads a span.

        Raises:
            DataError: The file cannot be read.
        """


class LineShardContent(ShardContent):
    """Records that are lines; each is written as its prefix, the answer and a closing brace."""

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields)
        self.prefixes: list[str] = []

    def render(self, answers: Sequence[Annotation]) -> bytes:
        """The content of the output file; the original characters of a record are kept."""
        name = json.dumps(self.fields.answer, ensure_ascii=False)
        lines = [
            f"{prefix}, {name}: {json.dumps(answer, ensure_ascii=False)}}}\n"
            for prefix, answer in zip(self.prefixes, answers, strict=True)
        ]
        return "".join(lines).encode()


class LineFormat(Format):
    """A format with one record a line."""

    output_suffix = ".jsonl"

    @abstractmethod
    def parse_line(self, line: str, fields: Fields) -> tuple[str, str] | str | None:
        """Parses a line to (text, prefix of the output line), or to the reason of its rejection; None if it is no record."""

    def cut(self, location: StorageLocation, path: str, shard_bytes: int, fields: Fields) -> Iterator[Span]:
        """Cuts after the first end of a line beyond `shard_bytes`; reads the file once, one shard at a time."""
        with location.lines(path) as stream:
            start, line = 0, 1
            while block := stream.read(shard_bytes):
                size, count = len(block), block.count(b"\n")
                if not block.endswith(b"\n"):
                    size, count = size + _skip_line(stream), count + 1
                yield start, start + size, line, count
                start, line = start + size, line + count

    def read(self, location: StorageLocation, path: str, span: Span, fields: Fields) -> LineShardContent:
        """Reads lines; those that are not of this format are rejected."""
        start, stop, first, _ = span
        content = LineShardContent(fields)
        with location.lines(path, start) as stream:
            for number, (raw, size) in enumerate(_lines(stream, stop - start, path), start=first):
                self._add(content, number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, size)
        return content

    def _add(self, content: LineShardContent, number: int, raw: bytes, size: int) -> None:
        if size > len(raw) + len(b"\xef\xbb\xbf"):
            start = raw[:1_000].decode(errors="replace")
            content.rejected.append(
                RejectedRecord(number, start, f"a line of {size} bytes, of which this is the beginning")
            )
            return
        try:
            line = raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            reason = f"no UTF-8: byte {error.start + 1} of the line (0x{raw[error.start]:02x})"
            content.rejected.append(RejectedRecord(number, raw.decode(errors="replace").rstrip("\r\n"), reason, raw))
            return
        parsed = self.parse_line(line, content.fields)
        if isinstance(parsed, str):
            content.rejected.append(RejectedRecord(number, line, parsed))
        elif parsed:
            content.texts.append(parsed[0])
            content.prefixes.append(parsed[1])


class JsonLines(LineFormat):
    """One JSON object a line; blank lines are skipped."""

    name, input_suffix = "jsonl", ".jsonl"

    def parse_line(self, line: str, fields: Fields) -> tuple[str, str] | str | None:
        """Parses an object; the prefix is the object without the closing brace."""
        line = line.strip()
        if not line:
            return None
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            return f"no JSON ({error})"
        if not isinstance(record, dict):
            return f"JSON, but {_kind(record)} and no object"
        if missing := [name for name in fields.texts if name not in record]:
            return f"field {missing[0]!r} is missing"
        if fields.answer and fields.answer in record:
            return f"field {fields.answer!r}, which takes the answer, is there already; choose another with field=..."
        text, reason = fields.read([record[name] for name in fields.texts])
        return reason or (text, line[:-1].rstrip())


class Text(LineFormat):
    """One text a line; an empty line is a record without text."""

    name, input_suffix = "text", ".txt"

    def parse_line(self, line: str, fields: Fields) -> tuple[str, str] | str | None:
        """Parses a text; the prefix is the beginning of an object with it."""
        text, reason = fields.read([line])
        return reason or (text, json.dumps({fields.text: line}, ensure_ascii=False)[:-1])


def _lines(stream: Any, size: int, path: str) -> Iterator[tuple[bytes, int]]:
    """Yields (line, its size in bytes) up to a total size; of a line that is too long only the beginning."""
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


def rejected_lines(rejected: Iterable[RejectedRecord], file: str) -> bytes:
    """The content of a `rejected` file."""
    return "".join(item.as_json(file) + "\n" for item in rejected).encode()
