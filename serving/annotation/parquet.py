"""The Parquet format: rows are records, and the answers become a new column. Other columns are copied."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from agent.errors import DataError, one_line
from serving.annotation.records import Annotation, Fields, Format, RejectedRecord, ShardContent, Span
from serving.annotation.storage import StorageLocation

_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class Parquet(Format):
    """A format with one record a row."""

    name, input_suffix, output_suffix = "parquet", ".parquet", ".parquet"

    def cut(self, location: StorageLocation, path: str, shard_bytes: int, fields: Fields) -> Iterator[Span]:
        """Cuts by the average size of a row; reads only the file's footer."""
        with _opened(location, path) as file:
            _check_schema(path, file.schema_arrow, fields)
            footer = file.metadata
            size = sum(footer.row_group(index).total_byte_size for index in range(footer.num_row_groups))
            step = max(1, shard_bytes * footer.num_rows // max(1, size))
            for start in range(0, footer.num_rows, step):
                stop = min(start + step, footer.num_rows)
                yield start, stop, start + 1, stop - start

    def read(self, location: StorageLocation, path: str, span: Span, fields: Fields) -> Rows:
        """Reads rows; those without a valid text are rejected."""
        start, stop, first, _ = span
        with _opened(location, path) as file:
            table = pa.Table.from_batches(_rows(file, start, stop), file.schema_arrow)
        return Rows(table, first, fields)


class Rows(ShardContent):
    """The rows of a shard."""

    def __init__(self, table: pa.Table, first_row: int, fields: Fields) -> None:
        super().__init__(fields)
        self._table, self._answered = table, list[int]()
        columns = [_as_bytes(table.column(name)) for name in fields.texts]
        for index, raws in enumerate(zip(*columns, strict=True)):
            text, values, reason = self._read(raws)
            if reason:
                shown = dict(zip(fields.texts, values, strict=True))
                row = _row_as_json(table.slice(index, 1).drop_columns(list(fields.texts)), shown)
                self.rejected.append(RejectedRecord(first_row + index, row, reason))
            else:
                self.texts.append(text)
                self._answered.append(index)

    def render(self, answers: Sequence[Annotation]) -> bytes:
        """The content of the output file: the annotated rows, with the answers as last column."""
        column = pa.array(answers, _answer_type(self.fields.answer_type))
        kept = self._table.take(pa.array(self._answered, pa.int64()))
        buffer = pa.BufferOutputStream()
        pq.write_table(kept.append_column(self.fields.answer, column), buffer)
        return bytes(buffer.getvalue())

    def _read(self, raws: Sequence[bytes | None]) -> tuple[str, list[str | None], str]:
        """The input, its texts as they can be shown, and the reason of its rejection, if any."""
        shown = [raw if raw is None else raw.decode(errors="replace") for raw in raws]
        for raw in filter(None, raws):
            try:
                raw.decode()
            except UnicodeDecodeError as error:
                return "", shown, f"no UTF-8: byte {error.start + 1} of the text (0x{raw[error.start]:02x})"
        text, reason = self.fields.read(shown)
        return text, shown, reason


@contextmanager
def _opened(location: StorageLocation, path: str) -> Iterator[pq.ParquetFile]:
    with location.open(path) as stream:
        try:
            yield pq.ParquetFile(stream, buffer_size=1 << 20)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path} cannot be read as Parquet ({one_line(error, 200)})",
                remedy="mend the file, or take it away from the input",
            ) from None


def _rows(file: pq.ParquetFile, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Yields a range of rows, decoding only their row groups and keeping at most as many rows as the range."""
    first = 0
    for group in range(file.num_row_groups):
        after = first + file.metadata.row_group(group).num_rows
        if first < stop and start < after:
            for batch in file.iter_batches(stop - start, row_groups=[group]):
                low, high = max(start - first, 0), min(stop - first, batch.num_rows)
                if low < high:
                    yield batch.slice(low, high - low)
                first += batch.num_rows
                if first >= stop:
                    return
        first = after


def _check_schema(path: str, schema: pa.Schema, fields: Fields) -> None:
    for name in fields.texts:
        if schema.names.count(name) != 1:
            raise DataError(
                f"{path} has {schema.names.count(name) or 'no'} column {name!r}",
                allowed=f"text_field={' | '.join(schema.names)}" if name == fields.text else f"a column {name!r}",
                remedy="say which column holds the text with text_field=..."
                if name == fields.text
                else "rename the column",
            )
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(test(kind) for test in _TEXTUAL):
            raise DataError(
                f"column {name!r} of {path} is {kind}",
                allowed="strings",
                remedy="choose another with text_field=...",
            )
    if fields.answer and fields.answer in schema.names:
        raise DataError(
            f"{path} has a column {fields.answer!r} already, which takes the answer",
            remedy="choose another with field=...",
        )


_TEXTUAL = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view,
)  # fmt: skip


def _as_bytes(column: pa.ChunkedArray) -> list[bytes | None]:
    """The texts as bytes, since a column of strings may hold invalid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return found


def _row_as_json(row: pa.Table, text: dict[str, Any]) -> str:
    """A rejected row as JSON."""
    try:
        others = row.to_pylist()[0] if row.num_columns else {}
    except UnicodeDecodeError:  # invalid UTF-8 in another column
        others = {}
    return json.dumps(others | text, ensure_ascii=False, default=str)


def _answer_type(kind: Any) -> pa.DataType:
    """The type of the answer column, the same for all shards."""
    return _SCALARS[kind] if kind in _SCALARS else pa.list_(_struct(get_args(kind)[0]))


def _struct(item: type[BaseModel]) -> pa.DataType:
    return pa.struct([(name, _value_type(field.annotation)) for name, field in item.model_fields.items()])


def _value_type(annotation: Any) -> pa.DataType:
    kind = next(option for option in get_args(annotation) or (annotation,) if option is not type(None))
    return _SCALARS[kind] if kind in _SCALARS else _struct(kind)
