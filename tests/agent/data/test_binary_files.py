"""Parquet and DocBin; packed files; what is of another kind is named by what it is."""

import bz2
import gzip
import io
import pickle
import sys

import pytest

from agent.data.formats.base import Hints
from tests.agent.data.reading import notes, put, read, refusal, source_of, spanned

WORDS = {"tokens": ["Anna", "left"], "tags": ["B-PER", "O"]}

# --- Parquet


def parquet(rows, metadata=None):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    table = pyarrow.Table.from_pylist(rows)
    stream = io.BytesIO()
    writer.write_table(table.replace_schema_metadata(metadata or {}), stream)
    return stream.getvalue()


def test_parquet_of_the_hub_names_its_numbers(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        id=datasets.Value("string"),
        tokens=datasets.Sequence(datasets.Value("string")),
        ner_tags=datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
    )
    made = datasets.Dataset.from_dict(
        {"id": ["0"] * 3, "tokens": [["Anna", "left"]] * 3, "ner_tags": [[1, 0]] * 3}, features=features
    )
    made.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    file = tmp_path / "train-00000-of-00001.parquet"
    assert source_of(file).name == "words with tags in Parquet"
    assert read(file) == [WORDS] * 3
    assert [where for _, where in source_of(file).read_all()[0]] == [f"{file}[{number}]" for number in range(3)]


def test_parquet_of_texts_and_of_classes(tmp_path):
    text = spanned("Anna left", (0, 4, "PER"))
    assert read(put(tmp_path, "x.parquet", parquet([text]))) == [text]
    named = {b"huggingface": b'{"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}'}
    assert read(put(tmp_path, "y.parquet", parquet([{"text": "a", "label": 1}], named))) == [
        {"text": "a", "label": "good"}
    ]
    bare = put(tmp_path, "z.parquet", parquet([{"tokens": ["Anna"], "ner_tags": [1]}]))
    assert "z.parquet[0]: tags are numbers (1)" in refusal(bare)
    assert read(bare, hints=Hints(label_names=("O", "B-PER"))) == [{"tokens": ["Anna"], "tags": ["B-PER"]}]


def test_a_first_row_without_annotations_does_not_tell_the_shape_of_parquet(tmp_path):
    rows = [
        {"text": "b", "annotations": []},
        {"text": "🙂 Anna", "annotations": [{"label": "PER", "start_offset": 3, "end_offset": 7}]},
    ]
    file = put(tmp_path, "x.parquet", parquet(rows))
    assert [record["spans"] for record in read(file)] == [[], [{"start": 2, "end": 6, "label": "PER"}]]


def test_damaged_parquet_and_a_missing_pyarrow_are_named(tmp_path, monkeypatch):
    content = parquet([WORDS])
    assert "x.parquet cannot be read as Parquet" in refusal(put(tmp_path, "x.parquet", content[:60]))
    file = put(tmp_path, "y.parquet", content)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(file)
    assert "y.parquet is Parquet, and the package 'pyarrow' is not installed" in message
    assert "pip install pyarrow" in message


# --- DocBin


def docbin(*documents, **options):
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import DocBin

    empty = spacy.blank("en")
    made = DocBin(**options)
    for text, spans, cats in documents:
        document = empty(text)
        document.ents = [document.char_span(start, end, label=label) for start, end, label in spans]
        document.cats = cats
        made.add(document)
    return made.to_bytes()


def test_documents_of_spacy_are_read(tmp_path):
    text = "Zoë Lund left the U.S. 🙂 for Oslo."
    content = docbin((text, [(0, 8, "PERSON"), (29, 33, "GPE")], {}), ("nothing here", [], {}))
    file = put(tmp_path, "x.spacy", content)
    assert source_of(file).name == "DocBin (spaCy)"
    assert read(file) == [spanned(text, (0, 8, "PERSON"), (29, 33, "GPE")), spanned("nothing here")]
    assert notes(file) == []


def test_classes_of_spacy_are_read(tmp_path):
    content = docbin(("back!", [], {"refund": 1.0, "praise": 0.0}), store_user_data=True)
    assert read(put(tmp_path, "x.spacy", content))[0]["label"] == "refund"
    both = docbin(("back!", [], {"refund": 1.0, "praise": 1.0}))
    assert read(put(tmp_path, "y.spacy", both))[0]["labels"] == ["refund", "praise"]


def test_a_missing_spacy_and_what_is_no_docbin_are_named(tmp_path, monkeypatch):
    pytest.importorskip("spacy")
    file = put(tmp_path, "x.spacy", b"no such thing")
    assert "x.spacy is no DocBin" in refusal(file)
    monkeypatch.setitem(sys.modules, "spacy", None)
    message = refusal(file)
    assert "the package 'spacy' is not installed" in message
    assert "pip install spacy" in message


# --- packed files, and files of other kinds


def test_gzip_is_read_whatever_its_name(tmp_path):
    packed = gzip.compress(b"Anna B-PER\nleft O\n")
    assert read(put(tmp_path, "x.conll", packed)) == [WORDS]
    assert "x.conll is damaged gzip" in refusal(put(tmp_path, "x.conll", packed[:-9]))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Anna B-PER\n".encode("utf-16"), ["is UTF-16 text", "iconv -f utf-16 -t utf-8"]),
        ("Anna B-PER\nleft O\n".encode("utf-16-le"), ["is UTF-16 text", "iconv"]),
        (bz2.compress(b"x"), ["is packed with bzip2"]),
        (b"PK\x03\x04....", ["zip archive"]),
        (b"ARROW1\x00\x00", ["an Arrow file", "to_parquet"]),
        (pickle.dumps([1]), ["a Python pickle", "never loaded"]),
        (b"SQLite format 3\x00", ["an SQLite data base", "db-out"]),
        (b"<?xml version='1.0'?>\n<xmi:XMI xmlns:xmi='x'>", ["UIMA CAS XMI"]),
        (b"<html><body>x</body></html>", ["XML or HTML"]),
        (b"version https://git-lfs.github.com/spec/v1\n", ["a pointer of Git LFS", "git lfs pull"]),
        (b"text;label\na;b\n", ["separated by commas"]),
        (b"Sentence #,Word,POS,Tag\nSentence: 1,Anna,NNP,B-PER\n,left,VBD,O\n", ["separated by commas", "tokens"]),
    ],
)
@pytest.mark.parametrize("name", ["x.conll", "x.jsonl", "x.txt"])
def test_files_of_other_kinds_are_named(tmp_path, content, parts, name):
    message = refusal(put(tmp_path, name, content))
    assert all(part in message for part in [name, "Allowed: CoNLL columns", "Remedy: ", *parts]), message
