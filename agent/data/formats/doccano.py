"""doccano: JSON lines with triples, with objects of offsets, or with a class; offsets are UTF-16 units by its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.data.formats.base import Findings
from agent.data.normalisation.class_keys import with_classes
from agent.data.normalisation.span_keys import read_spans
from agent.errors import DataError

_LABELS = ("label", "labels")


def matches(record: Mapping[str, Any]) -> bool:
    """Whether an object is an export of doccano: `label` is a list, or entities have `start_offset`."""
    labels = [record[key] for key in _LABELS if isinstance(record.get(key), list)]
    lists = [record[key] for key in ("entities", "annotations") if isinstance(record.get(key), list)]
    offsets = any(isinstance(item, Mapping) and "start_offset" in item for found in lists for item in found)
    told = "Comments" in record or "relations" in record
    return bool(labels or offsets or (lists and told))


def convert(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """A text with its spans or its classes.

    Raises:
        DataError: Labels are numbers of doccano's database.
    """
    if record.get("relations"):
        findings.remarks["relations are not read"] += len(record["relations"])
    text = {"text": record.get("text", record.get("data"))}
    labels = next((record[key] for key in _LABELS if isinstance(record.get(key), list)), None)
    if labels and all(isinstance(label, str) for label in labels):
        return text | with_classes(labels)
    items = labels if labels is not None else record.get("entities", record.get("annotations"))
    spans = read_spans(items)
    for span in spans if isinstance(spans, list) else ():
        if isinstance(span, dict) and isinstance(span.get("label"), int):
            raise DataError(
                f"{where}: label {span['label']} is a number of doccano's database",
                allowed="names of labels",
                remedy="export as 'JSONL' of a newer doccano, which writes names",
            )
    return text | {"spans": spans} | ({"labels": []} if labels == [] else {})  # of spans or of classes


def write_classes(text: str, labels: Sequence[str]) -> dict[str, Any]:
    """A text for doccano's import as JSONL of text classification."""
    return {"text": text, "label": list(labels)}


def write(text: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    """A text for doccano's import as JSONL; offsets in UTF-16 units."""
    from agent.data.normalisation.offsets import from_characters

    edges = from_characters(text, "utf16")
    return {"text": text, "label": [[edges[span["start"]], edges[span["end"]], span["label"]] for span in spans]}
