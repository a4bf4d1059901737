"""The files of a split as one source of records: recognised, surveyed and read, as a whole or in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from agent.data.formats.base import Findings, Format, Hints, Record
from agent.data.formats.recognition import recognise
from agent.data.lines import Part, cut_file
from agent.data.normalisation.normal_form import Reading, SpansConfig, SplitReport, normal_records, survey
from agent.errors import DataError


@dataclass(frozen=True)
class SourcePart:
    """A run of whole records of one file, which can be read anywhere."""

    part: Part
    format: Format
    reading: Reading

    @property
    def num_bytes(self) -> int:
        """How long it is in the file."""
        return (self.part.stop or self.part.file.stat().st_size) - self.part.start

    def read(self) -> Iterator[Record]:
        """Yields its records in normal form.

        Raises:
            DataError: Names file and line.
        """
        report = SplitReport()
        yield from normal_records(self.format.read(self.part, report.findings), self.reading, report)
        report.refuse(self.reading.spans)


@dataclass(frozen=True)
class Source:
    """The records of one split.

    Attributes:
        name: Of the format, for people.
        rows: Yields the records as the format gives them.
        reading: How they are understood.
        notes: What the user should know of that.
        files: The files with their formats; none of the hub.
    """

    name: str
    rows: Callable[[Findings], Iterator[Record]]
    reading: Reading
    notes: tuple[str, ...] = ()
    files: tuple[tuple[Path, Format], ...] = ()

    def read(self, report: SplitReport, limit: int | None = None) -> Iterator[Record]:
        """Yields records in normal form, no more than `limit`.

        Raises:
            DataError: Names file and line.
        """
        yield from normal_records(islice(self.rows(report.findings), limit), self.reading, report)

    def read_all(self, limit: int | None = None) -> tuple[list[Record], list[str]]:
        """All records, and what the user should know of them.

        Raises:
            DataError: Names file and line; of spans that overlap or have gaps the first three, and how many there are.
        """
        report = SplitReport()
        records = list(self.read(report, limit))
        return records, self.finish(report)

    def finish(self, report: SplitReport) -> list[str]:
        """What the user should know of a split once it was read.

        Raises:
            DataError: Of spans that overlap or have gaps the first three, and how many there are.
        """
        report.refuse(self.reading.spans)
        return [*self.notes, *told(report, self.reading.spans)]

    @property
    def whole(self) -> str | None:
        """Why its files cannot be cut into parts; None if they can."""
        return next(
            (f"{path} ({found.name}) is read as a whole" for path, found in self.files if not found.ends_record), None
        )

    def cut(self, part_bytes: int) -> tuple[list[SourcePart], str]:
        """The parts of its files, and a digest of their bytes.

        Raises:
            DataError: A file cannot be read.
        """
        parts, digest = list[SourcePart](), hashlib.sha256()
        for path, found in self.files:
            if found.ends_record is None:
                raise AssertionError(f"{path} is read as a whole")
            cuts, content = cut_file(path, part_bytes, found.ends_record)
            parts += [SourcePart(part, found, self.reading) for part in cuts]
            digest.update(f"{found.name} {content}\n".encode())
        digest.update(repr(self.reading).encode())
        return parts, digest.hexdigest()


def open_files(files: Iterable[Path], spans: SpansConfig, hints: Hints, limit: int | None = None) -> Source:
    """Recognises files, and finds out how their records are to be understood.

    Raises:
        DataError: A file is of no known format, or what it says is not clear; names it.
    """
    known = tuple((file, recognise(file, hints)) for file in files)

    def rows(findings: Findings) -> Iterator[Record]:
        return chain.from_iterable(found.read(Part(file), findings) for file, found in known)

    name = ", ".join(dict.fromkeys(found.name for _, found in known))
    return _surveyed(name, rows, spans, hints, limit=limit, files=known)


def open_rows(
    name: str, rows: Callable[[], Iterable[Record]], spans: SpansConfig, hints: Hints, limit: int | None = None
) -> Source:
    """A source of records that lie in no files."""
    return _surveyed(name, lambda findings: iter(rows()), spans, hints, limit=limit)


def told(report: SplitReport, spans: SpansConfig) -> list[str]:
    """What was met, in lines for people."""
    counts: Mapping[str, int] = {reason: number for reason, number in report.findings.left_out.items() if number}
    lines = [f"left out: {', '.join(f'{number:,} {reason}' for reason, number in counts.items())}"] if counts else []
    lines += [f"{number:,} {remark}" for remark, number in report.findings.remarks.items() if number]
    if report.overlapping.number and spans.overlap == "longest":
        lines.append(f"{report.overlapping.number:,} overlapping spans, of which the longest are kept")
    if report.discontinuous.number and spans.discontinuous != "refuse":
        done = "left out" if spans.discontinuous == "leave_out" else "read from their first to their last character"
        lines.append(f"{report.discontinuous.number:,} discontinuous spans, {done}")
    return lines


def _surveyed(
    name: str,
    rows: Callable[[Findings], Iterator[Record]],
    spans: SpansConfig,
    hints: Hints,
    **more: Any,
) -> Source:
    files = more.get("files", ())
    units = {found.unit for _, found in files} or {"characters"}
    if len(units) > 1:
        raise DataError(f"{files[0][0].parent} mixes files of doccano with others", remedy="give files of one kind")
    seen = islice(rows(Findings()), more["limit"])
    reading, notes = survey(seen, spans, hints.label_names, units.pop())
    return Source(name, rows, reading, tuple(notes), files)
