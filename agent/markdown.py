"""Markdown in GitHub's dialect: tables, and text escaped so that it renders as it is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# What means something inside a line (CommonMark 0.31, GFM tables, math); GitHub's renderer also removes unknown HTML.
_MEANINGFUL = re.compile(r"([\\`*_{}\[\]<>&|~$])")


def escape(text: str) -> str:
    """A text as one line that renders as the text; white space becomes single spaces, control characters a �."""
    line = " ".join(text.split())
    visible = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) == "Cc" else char for char in line)
    return _MEANINGFUL.sub(r"\\\1", visible)


def clip(text: str, length: int) -> str:
    """The beginning of a text, with an ellipsis where something is left out."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def table(rows: Sequence[Sequence[str]], *, num_text_columns: int = 1) -> list[str]:
    """The lines of a table, the first row its head. Columns of text come first, those of numbers behind them; cells are escaped already."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * num_text_columns + "---:|" * (len(rows[0]) - num_text_columns), *body]


def verbatim(text: str) -> list[str]:
    """Lines of code, shown as they are; indented, since a fence could stand in the text."""
    return [f"    {line}".rstrip() for line in text.rstrip().splitlines()]
