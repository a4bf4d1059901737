"""Markdown that shows any text as it is: GitHub's dialect, whose readers also sanitise HTML."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_MEANINGFUL = re.compile(
    r"([\\`*_{}\[\]<>&|~$])"
)  # what means something inside a line (CommonMark 0.31, GFM tables, math)


def escape(text: str) -> str:
    """A text as one line that renders as the text; white space becomes single spaces, control characters a �."""
    line = " ".join(text.split())
    visible = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) == "Cc" else char for char in line)
    return _MEANINGFUL.sub(r"\\\1", visible)


def clip(text: str, length: int) -> str:
    """The beginning of a text, with an ellipsis where something is left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, the first row its head. The first column is text, the others are numbers; cells are escaped already."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|---|" + "---:|" * (len(rows[0]) - 1), *body]


def verbatim(text: str) -> list[str]:
    """Lines as they are, in a type of equal widths; indented, since a fence could stand in the text."""
    return [f"    {line}".rstrip() for line in text.rstrip().splitlines()]
