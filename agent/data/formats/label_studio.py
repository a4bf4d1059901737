"""Label Studio: its JSON export (tasks with annotations) and JSON-MIN, of regions of text and of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.data.formats.base import Findings
from agent.data.normalisation.class_keys import with_classes
from agent.errors import DataError

_RESULTS = ("annotations", "completions")


def matches(record: Mapping[str, Any]) -> bool:
    """Whether an object is a task, annotated or only with predictions."""
    lists = any(isinstance(record.get(key), list) for key in (*_RESULTS, "predictions"))
    return isinstance(record.get("data"), dict) and lists


def convert(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any] | None:
    """A task with its annotation; one without any is left out and counted.

    Raises:
        DataError: The task has no text, or a region is none of text.
    """
    found: list[dict[str, Any]] = next((record[key] for key in _RESULTS if isinstance(record.get(key), list)), [])
    kept = [annotation for annotation in found if not annotation.get("was_cancelled")]
    if len(kept) < len(found):
        findings.left_out["skipped by their annotator"] += len(found) - len(kept)
    if not kept:
        findings.left_out["not annotated"] += not found
        return None
    chosen = next((annotation for annotation in kept if annotation.get("ground_truth")), kept[0])
    if len(kept) > 1:
        findings.remarks["further annotations of the same task: the ground truth is read, or else the first"] += (
            len(kept) - 1
        )
    results = [result for result in chosen.get("result", []) if isinstance(result, dict)]
    others = [result for result in results if result.get("type") not in ("labels", "hypertextlabels", "choices")]
    if others:
        findings.remarks["results other than labels and choices are not read"] += len(others)
    names = [result["to_name"] for result in results if "to_name" in result]
    text = _text(record["data"], names, where)
    spans = [
        _region(result["value"], where) for result in results if result.get("type") in ("labels", "hypertextlabels")
    ]
    choices = [choice for result in results if result.get("type") == "choices" for choice in result["value"]["choices"]]
    return {"text": text, "spans": spans} | (with_classes(choices) if choices else {})


def matches_flat(record: Mapping[str, Any]) -> bool:
    """Whether an object is a line of JSON-MIN."""
    labels = record.get("label")
    regions = isinstance(labels, list) and labels and isinstance(labels[0], dict) and "labels" in labels[0]
    return bool(regions) or {"annotation_id", "annotator"} <= set(record)


def convert_flat(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """A text with the regions of `label`, or the class of `sentiment`, `choice` or whatever holds one.

    Raises:
        DataError: A region is none of text.
    """
    labels = record.get("label") or []
    text = _text({key: value for key, value in record.items() if key not in _FLAT_KEYS}, (), where)
    if isinstance(labels, list):
        return {"text": text, "spans": [_region(region, where) for region in labels]}
    return {"text": text, "spans": [], "label": labels}


_FLAT_KEYS = frozenset(
    [
        "id",
        "label",
        "annotator",
        "annotation_id",
        "created_at",
        "updated_at",
        "lead_time",
        "sentiment",
        "choice",
        "agreement",
    ]
)


def _text(data: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """The text of a task: the field `text`, or the one that its tags name, or the only one that there is."""
    for key in ("text", *names):
        if isinstance(data.get(key), str):
            return str(data[key])
    texts = [value for value in data.values() if isinstance(value, str)]
    if len(texts) == 1:
        return texts[0]
    raise DataError(
        f"{where}: the task's data has the fields {', '.join(data) or 'none'}, and it is not clear which is the text",
        allowed="a field 'text', or a single field of text",
        remedy="rename the field to 'text'",
    )


def _region(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    labels = value.get("labels") or value.get("hypertextlabels") or []
    if len(labels) != 1:
        raise DataError(
            f"{where}: the region {value.get('start')}:{value.get('end')} has {len(labels)} labels",
            allowed="one label for a region",
            remedy="choose one in Label Studio",
        )
    if not isinstance(value.get("start"), int):
        raise DataError(
            f"{where}: a region of HTML ({value.get('start')!r})",
            allowed="regions of plain text, whose offsets are numbers",
            remedy="label the text with <Text> instead of <HyperText>",
        )
    text = value.get("text")
    region = {"start": value["start"], "end": value.get("end"), "label": labels[0]}
    return region | ({"text": text} if isinstance(text, str) else {})


def write_classes(text: str, labels: Sequence[str]) -> dict[str, Any]:
    """A task for Label Studio's import, its choices predicted (`<Choices name="label" toName="text">`)."""
    result = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": list(labels)}}
    return {"data": {"text": text}, "predictions": [{"result": [result] if labels else []}]}


def write(text: str, spans: list[dict[str, Any]]) -> dict[str, Any]:
    """A task for Label Studio's import, its regions predicted (`<Labels name="label" toName="text">`)."""
    results = [
        {
            "from_name": "label",
            "to_name": "text",
            "type": "labels",
            "value": {
                "start": span["start"],
                "end": span["end"],
                "text": text[span["start"] : span["end"]],
                "labels": [span["label"]],
            },
        }
        for span in spans
    ]
    return {"data": {"text": text}, "predictions": [{"result": results}]}
