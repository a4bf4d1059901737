"""Records of any format in one form: tags of IOBES or BILOU, spans in characters that neither overlap nor have gaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from agent.config.base import Config
from agent.data.formats.base import Findings, Record, Unit
from agent.data.normalisation.offsets import UNIT_NAMES, OffsetEvidence, convert, first_of, to_characters, well_formed
from agent.data.normalisation.tag_schemes import Scheme, rewrite, scheme_of
from agent.errors import DataError

_SURVEYED = 20_000  # records by which tags are known; all of them where spans bring their own text


class SpansConfig(Config):
    """What becomes of spans that cannot be taught as they are."""

    offsets: Literal["auto", "characters", "utf16", "bytes"] = Field(
        "auto",
        description="what offsets count; auto goes by the text that spans bring, else characters (UTF-16 units for doccano)",
    )
    overlap: Literal["refuse", "longest"] = Field(
        "refuse", description="spans that overlap: an error that names them, or the longest is kept"
    )
    discontinuous: Literal["refuse", "cover", "leave_out"] = Field(
        "refuse",
        description="spans of several parts: an error that names them, one span from their first to their last character, or none",
    )


@dataclass(frozen=True, slots=True)
class Reading:
    """How the records of a split are to be understood; the same for all its parts."""

    scheme: Scheme = "prefix"
    unit: Unit = "characters"
    spans: SpansConfig = field(default_factory=SpansConfig)
    label_names: tuple[str, ...] = ()


@dataclass(slots=True)
class Problems:
    """Spans of one kind of trouble: the first by name, all by number."""

    number: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, message: str) -> None:
        """Counts one more."""
        self.number += 1
        if len(self.first) < 3:
            self.first.append(message)

    def __str__(self) -> str:
        return first_of(self.first, self.number)


@dataclass(slots=True)
class SplitReport:
    """What was met while a split was read."""

    findings: Findings = field(default_factory=Findings)
    overlapping: Problems = field(default_factory=Problems)
    discontinuous: Problems = field(default_factory=Problems)

    def refuse(self, config: SpansConfig) -> None:
        """Refuses what was met and nothing was said about.

        Raises:
            DataError: Names the first three of all such spans.
        """
        if self.discontinuous.number and config.discontinuous == "refuse":
            raise DataError(
                f"{self.discontinuous.number} discontinuous span(s): {self.discontinuous}",
                allowed="spans of one part",
                remedy="mend them, or choose data.spans.discontinuous=cover (from first to last character) or =leave_out",
            )
        if self.overlapping.number and config.overlap == "refuse":
            raise DataError(
                f"{self.overlapping.number} overlapping span(s): {self.overlapping}",
                allowed="spans that do not overlap",
                remedy="keep one of each, or let data.spans.overlap=longest keep the longest",
            )


def survey(
    records: Iterable[Record], spans: SpansConfig, label_names: tuple[str, ...], default: Unit
) -> tuple[Reading, list[str]]:
    """How the records of a split are to be understood, and what people should know of it.

    Args:
        records: As their format gives them.
        spans: What the user has said of spans.
        label_names: What numbers stand for.
        default: What offsets count where spans bring no text of their own.

    Raises:
        DataError: Tags are numbers without names, or spans do not hold the text that they bring.
    """
    tags: set[str] = set()
    evidence = OffsetEvidence()
    for number, record in enumerate(records):
        if number >= _SURVEYED and not evidence.checked:
            break
        found = _named(*record, label_names).get("tags")
        if isinstance(found, list):
            tags.update(tag for tag in found if isinstance(tag, str))
        evidence.see(record)
    unit, notes = _unit(evidence, spans, default)
    scheme = scheme_of(tags)
    if scheme == "bare":
        notes.append("tags are bare labels: neighbours with the same label count as one entity")
    return Reading(scheme, unit, spans, label_names), notes


def normal_records(records: Iterable[Record], reading: Reading, report: SplitReport) -> Iterator[Record]:
    """Records in the form that tasks read. What overlaps or has gaps is reported, and yielded as if it had been settled."""
    for record, where in records:
        content = _named(record, where, reading.label_names)
        tags, spans = content.get("tags"), content.get("spans")
        if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
            content = content | {"tags": rewrite(tags, reading.scheme)}
        if isinstance(spans, list) and isinstance(content.get("text"), str):
            content = content | {"spans": _normal_spans(spans, content["text"], where, reading, report)}
        yield content, where


def _unit(evidence: OffsetEvidence, config: SpansConfig, default: Unit) -> tuple[Unit, list[str]]:
    if config.offsets != "auto":
        return config.offsets, []
    if not evidence.checked:
        note = f"{evidence.beyond} spans are read as UTF-16 units, doccano's default; data.spans.offsets=characters if they are not"
        return default, [note] if default == "utf16" and evidence.beyond else []
    unit = evidence.unit()
    if unit is None:
        wrong = evidence.checked - evidence.agreeing["characters"]
        raise DataError(
            f"{wrong} of {evidence.checked} spans do not hold the text that they bring: {first_of(evidence.wrong, wrong)}",
            allowed="offsets in characters, or all of them in UTF-16 units, or all in bytes of UTF-8",
            remedy="mend the offsets",
        )
    said = f"offsets count {UNIT_NAMES[unit]}, by the text of all {evidence.checked} spans that bring theirs: converted to characters"
    return unit, [said] if unit != "characters" else []


def _named(record: Mapping[str, Any], where: str, names: Sequence[str]) -> dict[str, Any]:
    """A record whose tags or class are given by name."""
    tags, label, labels = record.get("tags"), record.get("label"), record.get("labels")
    if isinstance(tags, list) and tags and all(_is_number(tag) for tag in tags):
        return {**record, "tags": [_name(tag, where, names) for tag in tags]}
    if names and isinstance(labels, list) and all(_is_number(one) for one in labels):
        return {**record, "labels": [_name(one, where, names) for one in labels]}
    if names and label is not None and _is_number(label):
        return {**record, "label": _name(label, where, names)}
    return dict(record)


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isascii() and value.isdigit())


def _name(number: int | str, where: str, names: Sequence[str]) -> str:
    if not names:
        raise DataError(
            f"{where}: tags are numbers ({number}), and what they stand for is not in the file",
            allowed="names of tags, or numbers with data.label_names",
            remedy="data.label_names=[O, B-PER, I-PER, ...], in the order of the numbers from 0",
        )
    if not 0 <= int(number) < len(names):
        raise DataError(
            f"{where}: {number} has no name",
            allowed=f"0 to {len(names) - 1}, as data.label_names has {len(names)} names",
            remedy="add the missing names",
        )
    return names[int(number)]


def _normal_spans(spans: Sequence[Any], text: str, where: str, reading: Reading, report: SplitReport) -> list[Any]:
    places = to_characters(text, reading.unit)
    found: list[Any] = []
    for index, span in enumerate(spans):
        if not well_formed(span) or not isinstance(span.get("label"), str) or not span["label"]:
            return list(spans)  # the task refuses it
        placed = span if places is None else convert(span, places)
        if placed is None:
            raise DataError(
                f"{where}: spans[{index}] {span['start']}:{span['end']} ends within a character or beyond the text",
                allowed=f"offsets in {UNIT_NAMES[reading.unit]}",
                remedy="mend the offsets, or say what they count with data.spans.offsets",
            )
        if "fragments" in span:
            parts = ";".join(f"{start} {end}" for start, end in span["fragments"])
            report.discontinuous.add(f"{where}: {span['label']} {parts}")
            if reading.spans.discontinuous == "leave_out":
                continue
        found.append({key: placed[key] for key in ("start", "end", "label") if key in placed})
    return _without_overlap(found, where, report)


def _without_overlap(spans: list[dict[str, Any]], where: str, report: SplitReport) -> list[dict[str, Any]]:
    """The longest of spans that overlap; which those are is reported."""
    ordered = sorted(spans, key=lambda span: (span["start"], span["end"]))
    if not any(after["start"] < before["end"] for before, after in itertools.pairwise(ordered)):
        return spans
    furthest = ordered[0]
    for span in ordered[1:]:
        if span["start"] < furthest["end"]:
            report.overlapping.add(f"{where}: span {_told(span)} overlaps span {_told(furthest)}")
        furthest = max(furthest, span, key=lambda one: one["end"])
    kept: list[dict[str, Any]] = []
    for span in sorted(ordered, key=lambda one: one["start"] - one["end"]):
        if all(span["end"] <= other["start"] or other["end"] <= span["start"] for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda span: int(span["start"]))


def _told(span: Mapping[str, Any]) -> str:
    return f"{span['start']}:{span['end']} {span.get('label')}"
