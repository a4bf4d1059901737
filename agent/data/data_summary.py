"""What a data set holds, for people: formats, labels with counts, lengths, spans that cannot be taught, texts in two splits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent.data.exports import words_of
from agent.data.formats.base import Record
from agent.data.normalisation.answer_keys import is_question
from agent.data.normalisation.normal_form import SplitReport
from agent.data.sources import Source
from agent.segmentation import Segmentation, ends_entity
from agent.spans import decode_tags
from agent.tasks.tagged_text import trim

_LABELS_SHOWN = 40
_LINE_END = Segmentation().line_end


@dataclass(frozen=True)
class ReadSplit:
    """One split as it was read.

    Attributes:
        source: Where its records come from.
        records: In normal form.
        report: What was met.
        notes: The same and more, in lines for people.
    """

    source: Source
    records: Sequence[Record]
    report: SplitReport = field(default_factory=SplitReport)
    notes: Sequence[str] = ()


def describe(splits: Mapping[str, ReadSplit]) -> str:
    """A data set in a page."""
    lines = ["", "splits"]
    for name, split in splits.items():
        files = [path.name for path, _ in split.source.files]
        named = files[0] if len(files) == 1 else f"{len(files)} files" if files else "no files"
        lines.append(f"  {name:<6} {len(split.records):>8,} examples  {split.source.name}  ({named})")
    lines += ["", *_labels(splits), "", *_lengths(splits)]
    if notes := [f"  {name}: {note}" for name, split in splits.items() for note in split.notes]:
        lines += ["", "notes", *notes]
    lines += ["", *_untaught(splits), "", *_duplicates(splits)]
    return "\n".join(lines[1:])


def labels_of(record: Mapping[str, Any]) -> list[str]:
    """The labels of a record: of each of its entities, its classes, or whether its question has an answer."""
    if is_question(record):
        return ["answer" if record["answers"]["text"] else "no answer"]
    if "tags" in record:
        return [span.label for span in decode_tags(record["tags"])]
    if "spans" in record and (record["spans"] or not (record.get("label") or record.get("labels"))):
        return [span["label"] for span in record["spans"]]
    if isinstance(record.get("labels"), list):
        return [str(label) for label in record["labels"]]
    return [str(record["label"])] if isinstance(record.get("label"), str) else []


def text_of(record: Mapping[str, Any]) -> str:
    """The text of a record, all of an input that has several, or its words with blanks between them."""
    if "tokens" in record:
        return " ".join(record["tokens"])
    if "messages" in record:
        return "\n".join(str(turn["content"]) for turn in record["messages"])
    return "\n".join(str(record[key]) for key in ("text", "text_pair", "question", "context") if key in record)


def _labels(splits: Mapping[str, ReadSplit]) -> list[str]:
    counts = {
        name: Counter(label for record, _ in split.records for label in labels_of(record))
        for name, split in splits.items()
    }
    every = sorted(
        set().union(*counts.values()), key=lambda label: (-sum(count[label] for count in counts.values()), label)
    )
    if not every:
        return ["labels", "  none"]
    width = max(map(len, every[:_LABELS_SHOWN]))
    lines = ["labels" + " " * (width - 3) + "".join(f"{name:>9}" for name in splits)]
    lines += [
        f"  {label:<{width}} " + "".join(f"{counts[name][label]:>9,}" for name in splits)
        for label in every[:_LABELS_SHOWN]
    ]
    if len(every) > _LABELS_SHOWN:
        lines.append(f"  and {len(every) - _LABELS_SHOWN} more")
    lines += [
        f"  {name} has none of {', '.join(sorted(lost))}" for name in splits if (lost := set(every) - set(counts[name]))
    ]
    return lines


def _lengths(splits: Mapping[str, ReadSplit]) -> list[str]:
    lines = ["lengths        median      95%  longest"]
    for name, split in splits.items():
        for unit, lengths in (
            ("words", [len(record["tokens"]) for record, _ in split.records if "tokens" in record]),
            ("characters", [len(_longest(record)) for record, _ in split.records if "tokens" not in record]),
        ):
            if lengths:
                middle, high = np.percentile(lengths, [50, 95])
                lines.append(f"  {name:<10} {middle:>8,.0f} {high:>8,.0f} {max(lengths):>8,}  {unit}")
    return lines


def _longest(record: Mapping[str, Any]) -> str:
    """The text of a record that windows go over."""
    return text_of(record) if "messages" in record else str(record.get("context", record.get("text", "")))


def _untaught(splits: Mapping[str, ReadSplit]) -> list[str]:
    lines = ["spans that cannot be taught as they are"]
    for name, split in splits.items():
        for what, problems in (
            ("overlap another", split.report.overlapping),
            ("have gaps", split.report.discontinuous),
        ):
            if problems.number:
                lines.append(f"  {name}: {problems.number:,} {what}: {problems}")
        within, parted, number = _unsaid(split.records)
        if within:
            lines.append(
                f"  {name}: {within:,} of {number:,} begin or end within a word: an agent that labels sub-words can say them"
            )
        if parted:
            lines.append(
                f"  {name}: {parted:,} of {number:,} hold a blank line, a tab, a run of blanks or the end of a short line, which ends an entity"
            )
    return lines if len(lines) > 1 else [f"{lines[0]}: none"]


def _unsaid(records: Sequence[Record]) -> tuple[int, int, int]:
    """Spans that an agent which labels whole words cannot say, and those over what ends an entity, of how many."""
    within = parted = number = 0
    for record, _ in records:
        if spans := record.get("spans"):
            text, pieces = record["text"], words_of(record["text"])
            starts, ends = set(pieces.starts), set(pieces.ends)
            gaps = [
                (before, behind)
                for before, behind in zip(pieces.ends, pieces.starts[1:], strict=False)
                if ends_entity(text, before, behind, line_end=_LINE_END)
            ]
            edges = [trim(text, span["start"], span["end"]) for span in spans]
            within += sum(start not in starts or end not in ends for start, end in edges)
            parted += sum(any(start < before and behind < end for before, behind in gaps) for start, end in edges)
            number += len(spans)
    return within, parted, number


def _duplicates(splits: Mapping[str, ReadSplit]) -> list[str]:
    """Texts that stand in more than one split, or more than once in one."""
    texts = {name: Counter(text_of(record) for record, _ in split.records) for name, split in splits.items()}
    lines = ["duplicates"]
    repeated = {name: sum(found.values()) - len(found) for name, found in texts.items()}
    lines += [f"  {name}: {number:,} texts stand in it before" for name, number in repeated.items() if number]
    for first, name in itertools.combinations(texts, 2):
        found = texts[name]
        number = sum(found[text] for text in found.keys() & texts[first].keys())
        if number:
            lines.append(f"  {name}: {number:,} of its {len(splits[name].records):,} texts stand in {first} too")
    return lines if len(lines) > 1 else [f"{lines[0]}: none"]
