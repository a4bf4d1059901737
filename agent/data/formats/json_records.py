"""Objects of JSON files: one a line, or the items of an array."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.data.formats.base import Record
from agent.data.lines import Part, numbered_lines, read_text, unpacked_name
from agent.errors import DataError

LINE_SUFFIXES = (".jsonl", ".ndjson")
_LISTS = ("annotations", "examples", "records", "data", "rows", "items")  # under which an object holds its records


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
        yield _as_object(record, where, allowed="one JSON object a line"), where


def read_array(part: Part) -> Iterator[Record]:
    """Yields `(object, "file[number]")` for the items of a whole file: an array, or an object that holds one.

    Raises:
        DataError: The file is no JSON, or an item is no object.
    """
    file = part.file
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file}:{error.lineno}: no JSON ({error.msg}, column {error.colno})",
            allowed="a JSON array of objects, or one JSON object a line",
            remedy="mend the line",
        ) from None
    except RecursionError:
        raise DataError(f"{file}: JSON that is nested too deep", allowed="a JSON array of objects") from None
    for number, item in enumerate(_items(content)):
        if item is not None:  # what an annotator has not come to
            where = f"{file}[{number}]"
            yield _as_object(item, where, allowed="a JSON array of objects"), where


def ends_object(line: bytes) -> bool:
    """Every line is an object of its own."""
    return True


def is_array(file: Path, text: str) -> bool:
    """Whether a file that begins with this text holds one JSON value instead of one a line."""
    first = text.lstrip().split("\n", 1)[0].strip()
    try:
        found = json.loads(first)
    except (ValueError, RecursionError):
        lines = unpacked_name(file).endswith(LINE_SUFFIXES)
        return first in ("[", "{") or not lines
    return not _is_pair(found) and _items(found) != [found]


def _items(content: Any) -> list[Any]:
    if isinstance(content, list):
        return [content] if _is_pair(content) else content
    lists = [content[key] for key in _LISTS if isinstance(content.get(key), list)] if isinstance(content, dict) else []
    return lists[0] if lists and "text" not in content and not isinstance(content.get("data"), dict) else [content]


def _as_object(value: Any, where: str, *, allowed: str) -> dict[str, Any]:
    if _is_pair(value):
        return {"text": value[0], **value[1]}
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON {type(value).__name__}", allowed=allowed, remedy="mend the line")
    return value


def _is_pair(value: Any) -> bool:
    """`["text", {"entities": [[0, 4, "PER"]]}]`, as trainers of spaCy 2 took it."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)
