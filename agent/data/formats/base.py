"""What every reader of a format yields, is told and reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.data.lines import Part

Record = tuple[dict[str, Any], str]
"""A record and its place, `file:line`."""

Unit = Literal["characters", "utf16", "bytes"]
"""What offsets count: Unicode code points, UTF-16 code units (JavaScript, Java), or bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Hints:
    """What a file does not say of itself.

    Attributes:
        tag_column: Of columns, the number of the one that holds the tags, from 1; None finds it by content.
        label_names: What numbers stand for that are given as tags or classes.
        plain_text: Whether files of text without labels are data.
        languages: Suffixes of parallel files, of texts and of targets.
    """

    tag_column: int | None = None
    label_names: tuple[str, ...] = ()
    plain_text: bool = False
    languages: tuple[str, str] | None = None


@dataclass(slots=True)
class Findings:
    """What a reader has met that its user should know, counted.

    Attributes:
        left_out: Why records were left out.
        remarks: What else was met.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Format:
    """How one file is read.

    Attributes:
        name: For people.
        read: Yields the records of a part of the file.
        ends_record: After which lines the file may be cut into parts; None if it can only be read as a whole.
        unit: What offsets count where spans do not bring the text that they hold.
    """

    name: str
    read: Callable[[Part, Findings], Iterator[Record]]
    ends_record: Callable[[bytes], bool] | None = None
    unit: Unit = "characters"
