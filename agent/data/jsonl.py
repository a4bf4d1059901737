"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator

from agent.data.conll import Record
from agent.data.lines import Part, numbered_lines
from agent.errors import DataError


def read_jsonl(part: Part) -> Iterator[Record]:
    """Yields `(object, "file:line")`; blank lines are left out.

    Raises:
        DataError: A line cannot be decoded or is no JSON object.
    """
    for number, line in numbered_lines(part):
        if not line.strip():
            continue
        where = f"{part.file}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: no JSON ({error})", allowed="one JSON object a line", remedy="mend the line"
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{where}: a JSON {type(record).__name__}", allowed="one JSON object a line", remedy="mend the line"
            )
        yield record, where


def ends_object(line: bytes) -> bool:
    """Every line is an object of its own."""
    return True
