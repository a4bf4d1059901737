"""Writes texts with an agent's answers as files for people to correct: JSON lines of our own, or files of a labelling tool."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agent.data.formats import doccano, label_studio, prodigy
from agent.errors import ConfigError, DataError
from agent.files import draft_file
from agent.tasks import BaseTask

Form = Literal["jsonl", "doccano", "prodigy", "label_studio"]
_SCORE = "uncertainty"


class Suggestion(NamedTuple):
    """A text to be labelled.

    Attributes:
        record: The text with the agent's answer, as labelled data holds it.
        uncertainty: Of the answer, 0 to 1.
    """

    record: Mapping[str, Any]
    uncertainty: float


def check_output(file: Path, form: Form, task: BaseTask[Any], *, overwrite: bool) -> None:
    """Refuses what could not be written in the end.

    Raises:
        ConfigError: The file is there already, or its format cannot hold inputs of the task.
    """
    if form != "jsonl" and len(task.input_fields) > 1:
        raise ConfigError(
            f"format={form} takes one text, and an input of this agent is {' with '.join(task.input_fields)}",
            allowed="format=jsonl",
            remedy="leave out format",
        )
    if file.is_dir():
        raise ConfigError(f"output {file} is a directory", allowed="a file", remedy="give another output")
    if file.exists() and not overwrite:
        raise ConfigError(f"output {file} exists", remedy="give another output, or overwrite=true")


def write_suggestions(
    file: Path, form: Form, suggestions: Sequence[Suggestion], task: BaseTask[Any], *, private: bool
) -> None:
    """Writes the file whole or not at all.

    Args:
        file: Its directory is made where it is absent.
        form: What is written.
        suggestions: In their order.
        task: Whose labels people choose from.
        private: Whether only its owner may read it.

    Raises:
        DataError: It cannot be written.
    """
    items = [_item(form, suggestion, task) for suggestion in suggestions]
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    content = json.dumps(items, ensure_ascii=False, indent=1) + "\n" if form == "label_studio" else lines
    try:
        with draft_file(file) as draft:
            draft.touch(0o600 if private else 0o666)
            draft.write_text(content, encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"output {file} cannot be written ({error.strerror})", remedy="give another output") from None


def _item(form: Form, suggestion: Suggestion, task: BaseTask[Any]) -> dict[str, Any]:
    record, score = suggestion.record, round(suggestion.uncertainty, 6)
    if form == "jsonl":
        return {**record, _SCORE: score}
    text, spans = record["text"], record.get("spans")
    labels = record["labels"] if "labels" in record else [record["label"]] if "label" in record else []
    if form == "doccano":
        item = doccano.write_classes(text, labels) if spans is None else doccano.write(text, spans)
        return item | {_SCORE: score}
    if form == "prodigy":
        item = (
            prodigy.write_classes(text, labels, task.labels, several="labels" in record)
            if spans is None
            else prodigy.write(text, spans)
        )
        return item | {"meta": {_SCORE: score}}
    item = label_studio.write_classes(text, labels) if spans is None else label_studio.write(text, spans)
    item["data"][_SCORE] = score
    item["predictions"][0]["score"] = round(1 - score, 6)  # how sure it is: Label Studio shows the least sure first
    return item
