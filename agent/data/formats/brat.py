"""brat: a text in NAME.txt, its annotations in NAME.ann beside it (standoff)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agent.data.formats.base import Findings, Record
from agent.data.lines import Part, numbered_lines, read_text
from agent.errors import DataError

SUFFIX = ".ann"
_PLACE = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")  # LABEL START END, several parts separated by semicolons
_OTHERS = {
    "R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "normalisations", "*": "equivalences", "#": "notes",
}  # fmt: skip


def read_brat(part: Part, findings: Findings) -> Iterator[Record]:
    """Yields the one record of a pair; a span of several parts keeps them as `fragments`.

    Raises:
        DataError: The text is absent, or a line is no annotation.
    """
    file = part.file.with_suffix(".txt")
    if not file.is_file():
        raise DataError(
            f"{part.file} has no text: there is no {file.name} beside it",
            allowed="pairs of NAME.txt and NAME.ann",
            remedy="put the text beside its annotations",
        )
    text = read_text(file)
    spans = []
    for number, line in numbered_lines(part):
        if not line.strip():
            continue
        if line[0] in _OTHERS:
            findings.remarks[f"{_OTHERS[line[0]]} are not read"] += 1
            continue
        spans.append(_span(line, text, f"{part.file}:{number}"))
    yield {"text": text, "spans": spans}, str(part.file)


def _span(line: str, text: str, where: str) -> dict[str, Any]:
    name, place, held = (*line.split("\t", 2), "", "")[:3]
    found = _PLACE.fullmatch(place)
    if not name.startswith("T") or not found:
        raise DataError(
            f"{where}: {line[:60]!r} is no annotation of brat",
            allowed="T1, a tab, LABEL START END, a tab, the text that is marked",
            remedy="mend the line",
        )
    label, offsets = found.groups()
    parts = [tuple(map(int, edges.split(" "))) for edges in offsets.split(";")]
    joined = _join(parts, text)
    span: dict[str, Any] = {"start": joined[0][0], "end": joined[-1][1], "label": label, "text": held}
    return span | ({"fragments": joined} if len(joined) > 1 else {})


def _join(parts: list[Any], text: str) -> list[tuple[int, int]]:
    """Parts with nothing but white space between them are one: brat cuts spans at line ends."""
    joined = [parts[0]]
    for start, end in parts[1:]:
        if joined[-1][1] <= start and not text[joined[-1][1] : start].strip():
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def write(text: str, spans: list[dict[str, Any]]) -> str:
    """The annotations of a text; the text itself is the other file."""
    lines = []
    for number, span in enumerate(spans, start=1):
        held = text[span["start"] : span["end"]].replace("\n", " ")
        lines.append(f"T{number}\t{span['label']} {span['start']} {span['end']}\t{held}\n")
    return "".join(lines)
