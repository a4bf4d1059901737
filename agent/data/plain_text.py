"""Plain text, for tasks that learn from text alone: every line is a text, blank ones part documents and are left out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from agent.data.formats.base import Findings, Record
from agent.data.formats.columns import split_columns
from agent.data.lines import Part, numbered_lines
from agent.data.normalisation.tag_schemes import is_tag

NAME = "plain text"
SUFFIX = ".txt"
_LOOKED_AT = 200  # lines by which columns of words with tags are told from text


def read_lines(part: Part, findings: Findings) -> Iterator[Record]:
    """Yields `({"text"}, "file:line")` for every line that is not blank.

    Raises:
        DataError: A line cannot be decoded.
    """
    for number, line in numbered_lines(part):
        if line.strip():
            yield {"text": line}, f"{part.file}:{number}"


def ends_line(line: bytes) -> bool:
    """Every line is a text of its own."""
    return True


def is_prose(text: str) -> bool:
    """Whether what a file begins with is text, not columns of words with tags."""
    rows = (columns for columns in map(split_columns, text.split("\n")[:-1]) if columns)
    return not all(len(row) > 1 and is_tag(row[-1].strip()) for row in islice(rows, _LOOKED_AT))
