"""How files are cut and read: every line and row is in one span, and what cannot be answered is set aside with the reason."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.errors import DataError
from agent.tasks.token_classification import Entity
from serving.annotation import records
from serving.annotation.formats import FORMATS
from serving.annotation.records import Fields, ShardContent
from serving.annotation.storage import StorageLocation

FIELDS = Fields("text", "entities", list[Entity], max_characters=50)
ANSWER = [{"entity_group": "LOC", "score": 0.5, "word": "Oslo", "start": 0, "end": 4}]


def read_all(file: Path, kind: str, shard_bytes: int, fields: Fields = FIELDS) -> list[ShardContent]:
    place, format_ = StorageLocation(str(file)), FORMATS[kind]
    spans = list(format_.cut(place, str(file), shard_bytes, fields))
    assert [span[0] for span in spans[1:]] == [span[1] for span in spans[:-1]]
    return [format_.read(place, str(file), span, fields) for span in spans]


def read_one(file: Path, kind: str, fields: Fields = FIELDS) -> ShardContent:
    (content,) = read_all(file, kind, 1_000_000, fields)
    return content


def reasons(content: ShardContent) -> dict[int, str]:
    return {item.line: item.reason for item in content.rejected}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
@pytest.mark.parametrize("shard_bytes", [1, 7, 64, 10_000])
def test_every_line_is_in_one_span_with_its_number(tmp_path: Path, ending: str, last: str, shard_bytes: int) -> None:
    rng = random.Random(shard_bytes)
    lines = ["ä" * rng.choice([0, 1, 5, 30]) for _ in range(100)] + ([last] if last else [])
    file = tmp_path / "a.txt"
    file.write_text(ending.join(lines) + ("" if last else ending), newline="")
    contents = read_all(file, "text", shard_bytes)
    assert [text for content in contents for text in content.texts] == [line for line in lines if line]
    empty = [number for number, line in enumerate(lines, 1) if not line]
    assert [item.line for content in contents for item in content.rejected] == empty
    assert (len(contents) > 1) == (shard_bytes < 10_000)


def test_a_record_keeps_its_own_characters(tmp_path: Path) -> None:
    lines = ['{"n": 1.50, "text": "Oslo \\u00e4",  "n": 1e2}', ' {"text":"x","big":123456789012345678901234567890 } ']
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    content = read_one(file, "jsonl")
    assert content.texts == ["Oslo ä", "x"]
    entities = json.dumps(ANSWER)
    assert content.render([ANSWER, []]).decode().splitlines() == [
        lines[0][:-1] + f', "entities": {entities}}}',
        '{"text":"x","big":123456789012345678901234567890, "entities": []}',
    ]


def test_lines_that_are_no_records_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    lines = [
        b'{"text": "fine"}', b"{", b"[1]", b'{"id": 1}', b'{"text": 3}', b'{"text": null}', b'{"text": " "}', b"",
        b'{"text": "\\ud800"}', b'{"text": "\xff"}', b'{"text": "' + b"a" * 51 + b'"}', b'{"text": "x", "entities": 1}',
    ]  # fmt: skip
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(lines))
    content = read_one(file, "jsonl")
    assert content.texts == ["fine"]
    expected = {
        2: "no JSON (", 3: "JSON, but a list", 4: "field 'text' is missing", 5: "is a number, no string", 6: "is null",
        7: "is empty", 9: "lone surrogate at character 0", 10: "no UTF-8: byte 11 of the line (0xff)",
        11: "51 characters, beyond max_characters=50", 12: "field 'entities', which takes the answer",
    }  # fmt: skip
    assert set(reasons(content)) == set(expected)
    for line, reason in expected.items():
        assert reason in reasons(content)[line]


@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet"])
def test_what_an_agent_does_not_take_is_set_aside_with_its_reason(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": ["fine", "odd"]}), file)
    else:
        file.write_text('{"text": "fine"}\n{"text": "odd"}\n' if kind == "jsonl" else "fine\nodd\n")
    content = read_one(file, kind, replace(FIELDS, refusal_of=lambda text: "it is odd" if text == "odd" else ""))
    assert (content.texts, reasons(content)) == (["fine"], {2: "it is odd"})


def test_what_is_set_aside_can_be_read_again_as_it_was(tmp_path: Path) -> None:
    raw = '{"text": "Malmö"}'.encode("latin1")
    file = tmp_path / "a.jsonl"
    file.write_bytes(raw + b'\n{"text": ""}\n')
    broken, empty = (json.loads(item.as_json("a.jsonl")) for item in read_one(file, "jsonl").rejected)
    assert base64.b64decode(broken["record_base64"]).strip() == raw
    assert broken["record"] == '{"text": "Malm\N{REPLACEMENT CHARACTER}"}'
    assert empty == {"record": '{"text": ""}', "reason": "the text is empty", "file": "a.jsonl", "line": 2}


def test_of_an_endless_line_only_the_beginning_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_LONGEST_LINE", 2_000)
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "a"}\n' + b"x" * 9_999 + b'\n{"text": "b"}\n')
    contents = read_all(file, "jsonl", 10)
    assert [text for content in contents for text in content.texts] == ["a", "b"]
    (aside,) = [item for content in contents for item in content.rejected]
    assert (aside.line, aside.record) == (2, "x" * 1_000)
    assert "a line of 10000 bytes" in aside.reason


def test_a_file_that_has_become_shorter_loses_nothing_silently(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n")
    (span,) = FORMATS["text"].cut(StorageLocation(str(file)), str(file), 100, FIELDS)
    file.write_text("one\n")
    with pytest.raises(DataError, match=r"a\.txt has become shorter"):
        FORMATS["text"].read(StorageLocation(str(file)), str(file), span, FIELDS)


def write_parquet(file: Path, texts: list[str | None], **options: object) -> pa.Table:
    table = pa.table({"id": range(len(texts)), "text": texts, "tags": [["x"] * (n % 3) for n in range(len(texts))]})
    pq.write_table(table.replace_schema_metadata({"who": "me"}), file, **options)
    return table


@pytest.mark.parametrize("shard_bytes", [1, 700, 1_000_000])
@pytest.mark.parametrize("group", [7, 64, 1_000])
def test_every_row_is_in_one_span_whatever_the_row_groups(tmp_path: Path, shard_bytes: int, group: int) -> None:
    texts = [f"text {n}" for n in range(200)]
    write_parquet(tmp_path / "a.parquet", texts, row_group_size=group)
    contents = read_all(tmp_path / "a.parquet", "parquet", shard_bytes)
    assert [text for content in contents for text in content.texts] == texts


def test_rows_keep_their_columns_and_those_without_a_text_are_set_aside(tmp_path: Path) -> None:
    table = write_parquet(tmp_path / "a.parquet", ["Oslo", None, "", "nothing"])
    content = read_one(tmp_path / "a.parquet", "parquet")
    assert reasons(content) == {2: "field 'text' is null, no string", 3: "the text is empty"}
    assert json.loads(content.rejected[0].record) == {"id": 1, "text": None, "tags": ["x"]}
    written = pq.read_table(pa.BufferReader(content.render([ANSWER, []])))
    assert written.drop_columns(["entities"]).equals(table.take([0, 3]))
    assert written.schema.metadata[b"who"] == b"me"
    assert written.column("entities").to_pylist() == [[ANSWER[0] | {"entity": None, "index": None}], []]
    empty = pq.read_schema(pa.BufferReader(content.render([[], []])))
    assert empty.field("entities").type == written.schema.field("entities").type


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_texts_may_be_stored_in_any_way(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["Oslo", "Lima", "Oslo"]).cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert read_one(tmp_path / "a.parquet", "parquet").texts == ["Oslo", "Lima", "Oslo"]


def test_a_string_that_is_no_utf_8_is_set_aside_in_parquet_too(tmp_path: Path) -> None:
    broken = pa.array([b"Oslo", b"Malm\xf6"]).view(pa.string())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    content = read_one(tmp_path / "a.parquet", "parquet")
    assert content.texts == ["Oslo"]
    assert reasons(content) == {2: "no UTF-8: byte 5 of the text (0xf6)"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["x"]}, "has no column 'text'.*text_field=body"),
        ({"text": [1]}, "column 'text' of .* is int64.*strings"),
        ({"text": ["x"], "entities": [1]}, "has a column 'entities' already.*field="),
    ],
)
def test_a_parquet_file_of_another_shape_is_refused(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / "a.parquet", "parquet", 100)


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        read_all(tmp_path / "a.parquet", "parquet", 100)
