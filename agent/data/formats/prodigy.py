"""Prodigy: JSON lines as `prodigy db-out` writes them, of entities and of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.data.formats.base import Findings
from agent.data.normalisation.class_keys import with_classes
from agent.data.normalisation.span_keys import read_spans
from agent.errors import DataError

_LEFT_OUT = {"reject": "rejected", "ignore": "ignored", None: "not answered"}


def matches(record: Mapping[str, Any]) -> bool:
    """Whether an object is a task of Prodigy."""
    return "_input_hash" in record or record.get("answer") in ("accept", "reject", "ignore")


def convert(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any] | None:
    """An accepted task; others are left out and counted.

    Raises:
        DataError: The answer is none of Prodigy's.
    """
    answer = record.get("answer")
    if answer in _LEFT_OUT:
        findings.left_out[_LEFT_OUT[answer]] += 1
        return None
    if answer != "accept":
        raise DataError(f"{where}: answer {answer!r}", allowed="accept, reject or ignore", remedy="mend the record")
    if record.get("_view_id") == "ner":  # of a binary question; of all entities it would be ner_manual
        findings.remarks["answers are to single suggestions: entities that were not asked about count as none"] += 1
    spans = {"spans": read_spans(record.get("spans") or [])}
    return {"text": record.get("text")} | spans | _classes(record)


def _classes(record: Mapping[str, Any]) -> dict[str, Any]:
    """The classes of a text: the accepted ones of several, or that of a binary question."""
    chosen = record.get("accept")
    if isinstance(chosen, list):
        return with_classes(chosen)
    return {"label": record["label"]} if isinstance(record.get("label"), str) else {}


def write_classes(text: str, labels: Sequence[str], options: Sequence[str], *, several: bool) -> dict[str, Any]:
    """A task for Prodigy's choice interface (`textcat.manual`), its labels suggested; no answer yet.

    Args:
        text: Its text.
        labels: Which are suggested.
        options: All of them.
        several: Whether a text may have several.
    """
    return {
        "text": text,
        "options": [{"id": option, "text": option} for option in options],
        "accept": list(labels),
        "config": {"choice_style": "multiple" if several else "single"},
    }


def write(text: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    """A task for `prodigy ner.manual`, its spans suggested; no answer yet."""
    return {
        "text": text,
        "spans": [{"start": span["start"], "end": span["end"], "label": span["label"]} for span in spans],
    }
