"""Parquet, as the Hugging Face hub stores data sets: the same shapes as JSON, numbers named by the file's own features."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.data.formats.base import Findings, Format, Record
from agent.data.formats.shapes import convert_all, shape_of, telling
from agent.data.lines import Part
from agent.errors import DataError

MAGIC = b"PAR1"
_ROWS_AT_ONCE = 1_000


def parquet_format(file: Path) -> Format:
    """How a Parquet file is read, by its first row.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
    """
    first = telling(_rows(file))
    shape = shape_of(*first) if first else None
    return Format(
        f"{shape.name if shape else 'nothing'} in Parquet", read_parquet, unit=shape.unit if shape else "characters"
    )


def read_parquet(part: Part, findings: Findings) -> Iterator[Record]:
    """Yields the rows as records.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
    """
    if first := telling(_rows(part.file)):
        yield from convert_all(_rows(part.file), shape_of(*first), findings)


def _rows(file: Path) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{file} is Parquet, and the package 'pyarrow' is not installed",
            remedy="pip install pyarrow, or pip install 'bert-agent[formats]'",
        ) from None
    try:
        table = parquet.ParquetFile(file)
        names = _names(table.schema_arrow.metadata or {})
        number = 0
        for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {key: _named(value, names.get(key)) for key, value in row.items()}, f"{file}[{number}]"
                number += 1
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(
            f"{file} cannot be read as Parquet ({' '.join(str(error).split())[:100]})", remedy="get the file again"
        ) from None


def _names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Names of the numbers in columns, which `datasets` keeps in the file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except ValueError:
        return {}
    found = {}
    for key, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[key] = inner["names"]
    return found


def _named(value: Any, names: list[str] | None) -> Any:
    """Names of class numbers; what has none (-1 or None where labels are withheld) is left for the task to refuse."""
    if not names:
        return value
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
