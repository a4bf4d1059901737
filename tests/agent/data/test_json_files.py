"""JSON lines and arrays of our own shapes, of Hugging Face and of spaCy 2; names of numbers."""

import json

import pytest

from agent.data.formats.base import Hints
from tests.agent.data.reading import json_lines, put, read, refusal, source_of, spanned

WORDS = {"tokens": ["Anna", "left"], "tags": ["B-PER", "O"]}
TEXT = spanned("Anna left.", (0, 4, "PER"))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (WORDS, WORDS),
        ({"tokens": ["Anna", "left"], "ner_tags": ["B-PER", "O"], "id": "7"}, WORDS),
        ({"words": ["Anna", "left"], "ner": ["b-PER", "o"]}, WORDS),
        ({"tokens": ["Anna", "left"], "labels": ["PER", "O"]}, {"tokens": ["Anna", "left"], "tags": ["I-PER", "O"]}),
        (TEXT, TEXT),
        ({"text": "Anna left.", "spans": [[0, 4, "PER"]]}, TEXT),
        ({"text": "Anna left.", "entities": [{"start": 0, "end": 4, "type": "PER"}]}, TEXT),
        (
            {
                "text": "Anna left.",
                "entities": [{"entity_group": "PER", "score": 0.9, "word": "anna", "start": 0, "end": 4}],
            },
            TEXT,
        ),
        (["Anna left.", {"entities": [[0, 4, "PER"]]}], TEXT),
        ({"text": "Anna left.", "entities": [[0, 4, "PER"]]}, TEXT),
        ({"text": "I want it back", "label": "refund"}, {"text": "I want it back", "label": "refund"}),
    ],
)
@pytest.mark.parametrize("form", ["lines", "lines.gz", "array", "pretty", "object"])
def test_objects_are_read_from_lines_and_arrays(tmp_path, found, expected, form):
    name, content = {
        "lines": ("x.jsonl", json_lines(found, found)),
        "lines.gz": ("x.jsonl.gz", json_lines(found, found)),
        "array": ("x.json", json.dumps([found, found])),
        "pretty": ("x.jsonl", json.dumps([found, found], indent=2)),
        "object": ("x.json", json.dumps({"version": 1, "data": [found, found]})),
    }[form]
    kept = {key: value for key, value in read(put(tmp_path, name, content))[0].items() if key in expected}
    assert kept == expected
    assert len(read(put(tmp_path, name, content))) == 2


def test_our_own_shapes_may_stand_in_one_file(tmp_path):
    assert read(put(tmp_path, "x.jsonl", [WORDS, TEXT])) == [WORDS, TEXT]


def test_places_are_lines_or_numbers_of_items(tmp_path):
    lines, array = put(tmp_path, "x.jsonl", [WORDS, WORDS]), put(tmp_path, "x.json", json.dumps([WORDS, WORDS]))
    assert [where for _, where in source_of(lines).read_all()[0]] == [f"{lines}:1", f"{lines}:2"]
    assert [where for _, where in source_of(array).read_all()[0]] == [f"{array}[0]", f"{array}[1]"]


def test_numbers_are_named_by_a_list(tmp_path):
    file = put(tmp_path, "x.jsonl", [{"tokens": ["Anna", "left"], "ner_tags": [1, 0]}])
    names = Hints(label_names=("O", "B-PER"))
    assert read(file, hints=names) == [WORDS]
    message = refusal(file)
    assert "x.jsonl:1: tags are numbers (1), and what they stand for is not in the file" in message
    assert "data.label_names=[O, B-PER, I-PER, ...]" in message
    short = refusal(file, hints=Hints(label_names=("O",)))
    assert "x.jsonl:1: 1 has no name. Allowed: 0 to 0" in short


def test_numbers_of_columns_and_of_classes_are_named_too(tmp_path):
    names = Hints(label_names=("O", "B-PER"))
    assert read(put(tmp_path, "x.conll", "Anna 1\nleft 0\n"), hints=Hints(2, names.label_names)) == [WORDS]
    classes = put(tmp_path, "x.jsonl", [{"text": "a", "label": 1}])
    assert read(classes, hints=Hints(label_names=("bad", "good"))) == [{"text": "a", "label": "good"}]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('[{"translation": {"en": "a", "de": "b"}}]', ["x.json[0]", "several languages", "data.languages"]),
        ('[{"tokenized_text": ["a"], "ner": [[0, 0, "X"]]}]', ["GLiNER", "tokens"]),
        ('[\n{"text": "a",}\n]', ["x.json:2", "no JSON"]),
        ("[[" * 50_000, ["x.json", "nested too deep"]),
        ("[1]", ["x.json[0]: a JSON int"]),
    ],
)
def test_what_is_no_labelled_text_is_named(tmp_path, content, parts):
    message = refusal(put(tmp_path, "x.json", content))
    assert all(part in message for part in parts), message


def test_only_files_of_records_can_be_cut(tmp_path):
    assert source_of(put(tmp_path, "x.jsonl", [TEXT])).whole is None
    for name, content in {"x.jsonl.gz": json_lines(TEXT), "x.json": json.dumps([TEXT])}.items():
        assert f"{name} (texts with spans in" in source_of(put(tmp_path, name, content)).whole


def test_parts_are_read_as_the_whole_is(tmp_path):
    """Bare labels and UTF-16 offsets are known of the whole file; a part of it may not tell."""
    words = put(tmp_path, "x.conll", "is O\n\n" * 50 + "Anna PER\nLund PER\n\n" + "is O\n\n" * 50)
    texts = put(
        tmp_path,
        "x.jsonl",
        [{"text": "🙂 Anna", "spans": [{"start": 3, "end": 7, "label": "PER", "text": "Anna"}]}] * 9,
    )
    for source in (source_of(words), source_of(texts)):
        parts, _ = source.cut(40)
        assert len(parts) > 3
        assert [record for part in parts for record in part.read()] == source.read_all()[0]
        assert sum(part.num_bytes for part in parts) == source.files[0][0].stat().st_size
