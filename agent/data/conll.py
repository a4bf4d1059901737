"""CoNLL columns: one word a line, its tag in the last column, a blank line between sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.data.lines import Part, numbered_lines
from agent.errors import DataError

Record = tuple[dict[str, Any], str]
"""A record and its place, `file:line`."""


def read_conll(part: Part) -> Iterator[Record]:
    """Yields `({"tokens", "tags"}, "file:line")` for every sentence.

    Columns are separated by tabs if the line holds one (a word may then contain spaces), else by white space; any number
    of columns, at least two, the same in all lines of a sentence. `-DOCSTART-` lines are left out; a byte-order mark and
    CRLF are read.

    Raises:
        DataError: A line cannot be decoded or has no tag.
    """
    tokens: list[str] = []
    tags: list[str] = []
    first = width = 0
    for number, line in numbered_lines(part):
        columns = _columns(line)
        if not columns or columns[0] == "-DOCSTART-":
            if tokens:
                yield {"tokens": tokens, "tags": tags}, f"{part.file}:{first}"
            tokens, tags, width = [], [], 0
            continue
        if not tokens:
            first, width = number, len(columns)
        _check_columns(columns, width, where=f"{part.file}:{number}")
        tokens.append(columns[0])
        tags.append(columns[-1])
    if tokens:
        yield {"tokens": tokens, "tags": tags}, f"{part.file}:{first}"


def ends_sentence(line: bytes) -> bool:
    """Whether a line, given with its end, is blank: no sentence goes on beyond it."""
    return not line.removesuffix(b"\n").removesuffix(b"\r").strip(b" \t")


def _columns(line: str) -> list[str]:
    if not line.strip(" \t"):
        return []
    if "\t" in line:
        return [column.strip(" ") for column in line.rstrip(" \t").split("\t")]
    return [column for column in line.split(" ") if column]  # str.split() would take control characters for blanks


def _check_columns(columns: list[str], width: int, *, where: str) -> None:
    if len(columns) < 2:
        raise DataError(
            f"{where}: a word without a tag ({columns[0]!r})",
            allowed="WORD ... TAG, separated by spaces or tabs",
            remedy="add the tag as the last column",
        )
    if not columns[0]:
        raise DataError(
            f"{where}: a tag without a word ({columns[-1]!r})",
            allowed="WORD ... TAG, separated by spaces or tabs",
            remedy="add the word as the first column",
        )
    if len(columns) != width:
        raise DataError(
            f"{where}: {len(columns)} columns where the sentence began with {width}",
            allowed="the same number of columns in all lines of a sentence",
            remedy="mend the line",
        )
