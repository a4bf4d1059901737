"""Writes splits: in the normal form, or as the files of a tool in which a person corrects entities."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agent.data.formats import brat, columns, doccano, label_studio, prodigy
from agent.data.formats.base import Record
from agent.data.normalisation.answer_keys import is_question
from agent.data.normalisation.written_keys import is_written, read_written
from agent.errors import DataError
from agent.segmentation import Pieces, Segmentation, cut
from agent.spans import to_iob2
from agent.tasks.base import Join
from agent.tasks.piece_labels import tags_of
from agent.tasks.tagged_text import TaggedText, read_tagged_text

Form = Literal["jsonl", "doccano", "prodigy", "label_studio", "brat", "conll"]


def write_split(directory: Path, name: str, records: Sequence[Record], form: Form, join: Join) -> list[Path]:
    """Writes one split; returns its files.

    Args:
        directory: Where they go; made if missing.
        name: Of the split.
        records: In normal form.
        form: What is written.
        join: Makes a text of words, for tools that take texts.

    Raises:
        DataError: A file is there already, a record has no entities to write, or the directory cannot be written.
    """
    contents = _normal(name, records) if form == "jsonl" else _FORMS[form](name, _examples(records, form, join))
    files = {directory / path: content for path, content in contents.items()}
    if there := [str(file) for file in files if file.exists()]:
        raise DataError(f"{there[0]} exists", remedy="give another output, or move it away")
    try:
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8", newline="")
    except OSError as error:
        raise DataError(f"{directory} cannot be written ({error.strerror})", remedy="give another output") from None
    return list(files)


def words_of(text: str) -> Pieces:
    """The words and signs of a text, as an agent that labels whole words cuts it by default."""
    return cut(text, [(place, place + 1) for place in range(len(text))], Segmentation())


def _examples(records: Sequence[Record], form: Form, join: Join) -> list[TaggedText]:
    for record, where in records:
        if not {"tokens", "tags"} <= set(record) and "spans" not in record:
            raise DataError(
                f"{where}: format={form} is for entities, and this record has none",
                allowed="format=jsonl for texts with classes and questions",
                remedy="leave out format",
            )
    return [read_tagged_text(record, where, join) for record, where in records]


def _normal(name: str, records: Sequence[Record]) -> dict[str, str]:
    return {f"{name}.jsonl": _lines([_normal_record(record) for record, _ in records])}


def _normal_record(record: Mapping[str, Any]) -> dict[str, Any]:
    if "tokens" in record:
        return {"tokens": record["tokens"], "tags": to_iob2(record["tags"])}
    if is_question(record):
        return {key: record[key] for key in ("id", "question", "context", "answers") if key in record}
    if is_written(record):
        return read_written(dict(record))
    spans, labels = record.get("spans"), record.get("labels")
    classes = {"labels": labels} if isinstance(labels, list) else {}
    classes |= {"label": record["label"]} if isinstance(record.get("label"), str) else {}
    entities = {"spans": spans} if spans is not None and (spans or not any(classes.values())) else {}
    pair = {"text_pair": record["text_pair"]} if isinstance(record.get("text_pair"), str) else {}
    logged = {key: record[key] for key in ("propensity", "reward") if record.get(key) is not None} if classes else {}
    return {"text": record["text"]} | pair | entities | classes | logged


def _lines(objects: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def _spans(example: TaggedText) -> list[dict[str, Any]]:
    return [span._asdict() for span in example.spans]


def _doccano(name: str, examples: Sequence[TaggedText]) -> dict[str, str]:
    return {f"{name}.jsonl": _lines([doccano.write(example.text, _spans(example)) for example in examples])}


def _prodigy(name: str, examples: Sequence[TaggedText]) -> dict[str, str]:
    return {f"{name}.jsonl": _lines([prodigy.write(example.text, _spans(example)) for example in examples])}


def _label_studio(name: str, examples: Sequence[TaggedText]) -> dict[str, str]:
    tasks = [label_studio.write(example.text, _spans(example)) for example in examples]
    return {f"{name}.json": json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"}


def _brat(name: str, examples: Sequence[TaggedText]) -> dict[str, str]:
    found = {}
    for number, example in enumerate(examples):
        found[f"{name}/{number:06}.txt"] = example.text
        found[f"{name}/{number:06}.ann"] = brat.write(example.text, _spans(example))
    return found


def _conll(name: str, examples: Sequence[TaggedText]) -> dict[str, str]:
    sentences = []
    for example in examples:
        if example.words is None:
            pieces = words_of(example.text)
            tokens = [example.text[start:end] for start, end in zip(pieces.starts, pieces.ends, strict=True)]
            tags = tags_of(pieces, example.spans)
        else:
            tokens, tags = list(example.word_texts), list(example.tags)
        sentences.append(columns.write_columns({"tokens": tokens, "tags": tags}))
    return {f"{name}.conll": "".join(sentences)}


_FORMS: Mapping[str, Callable[[str, Sequence[TaggedText]], dict[str, str]]] = {
    "doccano": _doccano, "prodigy": _prodigy, "label_studio": _label_studio, "brat": _brat, "conll": _conll,
}  # fmt: skip
