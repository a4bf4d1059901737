"""The files of SemEval-2010 task 8: a numbered sentence in quotes, its relation, a comment, a blank line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.data.formats.base import Findings, Record
from agent.data.lines import Part, numbered_lines
from agent.errors import DataError

NAME = "relations of SemEval-2010 task 8"
_SENTENCE = re.compile(r'(\d+)\t"(.*)"\s*')
_COMMENT = "Comment:"


def begins_so(text: str) -> bool:
    """Whether a file that begins with this text is one."""
    first = next((line for line in text.split("\n") if line.strip()), "").removesuffix("\r")
    return _SENTENCE.fullmatch(first) is not None and "<e1>" in first


def ends_relation(line: bytes) -> bool:
    """Whether no sentence goes on behind a line."""
    return not line.strip()


def read_relations(part: Part, findings: Findings) -> Iterator[Record]:
    """Yields sentences with their markers and labels, each at the place of its sentence; comments are left out.

    Raises:
        DataError: A block is no sentence with a relation below it; names the line.
    """
    block = list[tuple[int, str]]()
    for number, line in numbered_lines(part):
        if line.strip():
            block.append((number, line))
        elif block:
            yield _record(block, part)
            block = []
    if block:
        yield _record(block, part)


def _record(block: list[tuple[int, str]], part: Part) -> Record:
    number, first = block[0]
    where, found, rest = f"{part.file}:{number}", _SENTENCE.fullmatch(first), [line.strip() for _, line in block[1:]]
    labels = [line for line in rest if not line.startswith(_COMMENT)]
    if found is None or len(labels) != 1:
        what = (
            f"{first[:60]!r} is no numbered sentence in quotes"
            if found is None
            else f"{len(labels)} lines of relations"
        )
        raise DataError(
            f"{where}: {what}",
            allowed="a number, a tab and a sentence in quotes; below it its relation, then a comment or none, then a blank line",
            remedy="mend the lines",
        )
    return {"id": int(found[1]), "text": found[2], "label": labels[0]}, where
