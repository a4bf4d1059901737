"""What an object of a JSON or Parquet file is: the shapes of the tools, told by their keys, tried in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from agent.data.formats import doccano, label_studio, prodigy
from agent.data.formats.base import Findings, Format, Record, Unit
from agent.data.formats.json_records import ends_object, is_array, read_array, read_jsonl
from agent.data.lines import Part, read_text
from agent.data.normalisation.answer_keys import holds_articles, is_question, questions_of, read_answers
from agent.data.normalisation.class_keys import names_classes, read_classes
from agent.data.normalisation.entity_keys import has_entities, read_entities
from agent.data.normalisation.span_keys import is_answered, read_answered, read_spans
from agent.data.normalisation.written_keys import is_written, read_written
from agent.errors import DataError

Convert = Callable[[dict[str, Any], str, Findings], dict[str, Any] | None]
"""Makes a record of ours of an object, given its place; None leaves it out, and the findings say why."""

_TOKENS = ("tokens", "words")
_PAIRS = (
    ("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
)  # fmt: skip
_LOOKED_AT = 1_000  # objects without labels, before a file counts as one without
_ANNOTATIONS = ("labels", "label", "spans", "entities", "annotations", "completions")
_TAGS = ("tags", "ner_tags", "ner", "labels")


class Shape(NamedTuple):
    """A kind of object.

    Attributes:
        name: For people.
        matches: Whether an object is one.
        convert: Makes it a record of ours.
        own: Whether a record is what the file says, line by line: nothing is left out and no offsets are converted.
        unit: What its offsets count where its spans bring no text.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    convert: Convert
    own: bool = False
    unit: Unit = "characters"


def json_format(file: Path, text: str) -> Format:
    """How a JSON file is read, by the text that it begins with.

    Raises:
        DataError: It holds what is no labelled text.
    """
    array = is_array(file, text)
    read = read_array if array else read_jsonl
    first = telling(read(Part(file)))
    shape = shape_of(*first) if first else _PLAIN
    kind = "a JSON array" if array else "JSON lines"
    whole = array or not shape.own
    return Format(
        f"{shape.name} in {kind}",
        partial(_read_json, array=array, name=shape.name),
        None if whole else ends_object,
        shape.unit,
    )


def telling(records: Iterator[Record]) -> Record | None:
    """The object that tells the shape: the first, or where its lists of annotations are empty the first with some."""
    first = next(records, None)
    if first is None or not _is_silent(first[0]):
        return first
    return next((record for record in islice(records, _LOOKED_AT) if not _is_silent(record[0])), first)


def _is_silent(record: Mapping[str, Any]) -> bool:
    """Whether nothing was annotated: an empty list may be one of any tool."""
    lists = [record[key] for key in _ANNOTATIONS if isinstance(record.get(key), list)]
    return bool(lists) and not any(lists)


def shape_of(record: dict[str, Any], where: str) -> Shape:
    """The shape of a file, by its first object.

    Raises:
        DataError: It is known, and no labelled text.
    """
    for keys, what, remedy in _FOREIGN:
        if keys <= set(record):
            raise DataError(f"{where}: {what}", allowed=_ALLOWED, remedy=remedy)
    return next((shape for shape in SHAPES if shape.matches(record)), _PLAIN)


def convert_all(records: Iterator[Record], shape: Shape, findings: Findings) -> Iterator[Record]:
    """Objects of one shape as records of ours."""
    for record, where in records:
        converted = shape.convert(record, where, findings)
        if converted is not None:
            yield converted, where


def _read_json(part: Part, findings: Findings, *, array: bool, name: str) -> Iterator[Record]:
    shape = next(shape for shape in (*SHAPES, _PLAIN) if shape.name == name)  # by name, for functions of parts travel
    records = read_array(part) if array else read_jsonl(part)
    if shape is _ARTICLES:
        return questions_of(records, read_text(part.file) if array else "")
    return convert_all(records, shape, findings)


def _own(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """Records of our own shapes may stand in one file, mixed."""
    if _has_words(record):
        tokens = next((record[key] for key in _TOKENS if key in record), None)
        tags = next((record[key] for key in _TAGS if key in record), None)
        return {key: value for key, value in (("tokens", tokens), ("tags", tags)) if value is not None}
    if _has_classes(record):
        return record | {"labels": read_classes(record["labels"])}
    spans = record.get("spans", record.get("entities"))
    return record | {"spans": read_spans(spans)} if spans is not None else record


def _answered(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    return read_answered(record, where) if isinstance(record.get("entities"), list) else _own(record, where, findings)


def _is_answered(record: Mapping[str, Any]) -> bool:
    return "text" in record and "answer" not in record and is_answered(record)  # Prodigy's answer is a person's


def _has_words(record: Mapping[str, Any]) -> bool:
    return "tokens" in record or isinstance(record.get("words"), list)


def _has_classes(record: Mapping[str, Any]) -> bool:
    return "text" in record and names_classes(record.get("labels"))


def _is_pair(record: Mapping[str, Any]) -> bool:
    return any(names <= set(record) for names in map(set, _PAIRS))


def _pair(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    """Two texts by our names, whatever collections of pairs call them."""
    names = next((names for names in _PAIRS if set(names) <= set(record)), None)
    if names is None:
        return record  # the task says what is missing
    kept = {key: value for key, value in record.items() if key not in (*names, "gold_label")}
    label = {"label": record["gold_label"]} if "gold_label" in record else {}
    return kept | label | dict(zip(_PAIRS[0], (record[name] for name in names), strict=True))


def _question(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    return read_answers(record)


def _relation(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    return read_entities(record, where)


def _written(record: dict[str, Any], where: str, findings: Findings) -> dict[str, Any]:
    return read_written(record)


def _has_class(record: Mapping[str, Any]) -> bool:
    return "label" in record and "spans" not in record and not isinstance(record["label"], list)


_ARTICLES = Shape("questions and answers in SQuAD's articles", holds_articles, _question, own=True)
_PLAIN = Shape("texts with spans", lambda record: True, _own, own=True)
SHAPES = (
    _ARTICLES,
    Shape("questions with contexts and answers", is_question, _question, own=True),
    Shape("texts to write", is_written, _written, own=True),
    Shape("texts with two entities", has_entities, _relation, own=True),
    Shape("answers of an agent", _is_answered, _answered, own=True),
    Shape("Label Studio", label_studio.matches, label_studio.convert),
    Shape("Label Studio (JSON-MIN)", label_studio.matches_flat, label_studio.convert_flat),
    Shape("Prodigy", prodigy.matches, prodigy.convert),
    Shape("words with tags", _has_words, _own, own=True),
    Shape("texts with sets of classes", _has_classes, _own, own=True),
    Shape("doccano", doccano.matches, doccano.convert, unit="utf16"),
    Shape("pairs of texts with classes", _is_pair, _pair, own=True),
    Shape("texts with classes", _has_class, _own, own=True),
)
_ALLOWED = (
    '{"tokens", "tags"}, {"text", "spans"}, {"text", "label"}, {"text", "labels"}, {"text", "text_pair", "label"}, {"text", "head", "tail", "label"} or {"question", "context", "answers"}, {"text", "target"}, {"messages"}, articles of SQuAD, an export of Prodigy, doccano or Label Studio '
    "(docs/data.md shows each)"
)
_FOREIGN = (
    (
        {"translation"},
        "a text in several languages",
        'write {"text", "target"} of the two, or parallel files (train.en, train.de) with data.languages=[en,de]',
    ),
    (
        {"tokenized_text", "ner"},
        "words with spans over words (GLiNER)",
        'write {"tokens": [...], "tags": [...]}, a tag for each word',
    ),
)
