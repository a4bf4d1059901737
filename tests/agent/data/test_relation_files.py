"""Texts with two entities: markers, spans beside the text, the files of SemEval-2010 task 8, and what is wrong by file and line."""

from __future__ import annotations

import json

import pytest

from agent.data import DataConfig, load_splits
from agent.data.formats.base import Hints
from agent.data.formats.recognition import recognise
from agent.data.lines import Part, cut_file
from agent.errors import DataError
from agent.tasks import RelationExtraction
from tests.agent.data.reading import put, read, refusal

TEXT, MARKED = "Anna works for Acme.", "<e1>Anna</e1> works for <e2>Acme</e2>."
LABEL = "Employment(e1,e2)"
SEMEVAL = (
    '8001\t"The most common <e1>audits</e1> were about <e2>waste</e2> and "recycling"."\r\nMessage-Topic(e1,e2)\r\n'
    'Comment: Assuming an audit = an audit document.\r\n\r\n\r\n8002\t"The <e2>company</e2> fabricates plastic <e1>chairs</e1>."\nOther\n'
)


def spans(**changes):
    given = {"text": TEXT, "head": {"start": 0, "end": 4}, "tail": {"start": 15, "end": 19}, "label": LABEL}
    return {key: value for key, value in (given | changes).items() if value is not None}


@pytest.mark.parametrize(
    "row",
    [
        {"text": MARKED, "label": LABEL},
        spans(),
        spans(head=[0, 4], tail=[15, 19]),
        {"text": TEXT, "e1": [0, 4], "e2": [15, 19], "label": LABEL},
        {"text": TEXT, "e1": {"start": 0, "end": 4}, "e2": {"start": 15, "end": 19, "type": "ORG"}, "label": LABEL},
    ],
)
def test_entities_stand_in_the_text_or_beside_it(tmp_path, row):
    (record,) = read(put(tmp_path, "x.jsonl", [row]))
    assert record == {"text": MARKED, "label": LABEL}


def test_the_files_of_semeval_are_read_as_they_come(tmp_path):
    file = put(tmp_path, "TRAIN_FILE.TXT", SEMEVAL)
    assert read(file) == [
        {"id": 8001, "text": 'The most common <e1>audits</e1> were about <e2>waste</e2> and "recycling".', "label": "Message-Topic(e1,e2)"},
        {"id": 8002, "text": "The <e2>company</e2> fabricates plastic <e1>chairs</e1>.", "label": "Other"},
    ]  # fmt: skip


def test_the_files_of_semeval_can_be_cut_into_parts(tmp_path):
    file = put(tmp_path, "train.txt", (SEMEVAL + "\n") * 3)
    found = recognise(file, Hints())
    parts, _ = cut_file(file, 1, found.ends_record)
    assert len(parts) > 3
    whole, in_parts = ([record for part in some for record in found.read(part, None)] for some in ([Part(file)], parts))
    assert in_parts == whole
    assert whole[1][1] == f"{file}:6"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (spans(tail={"start": 15, "end": 40}), "entity e2 15:40 is no part of the text, which has 20 characters"),
        (spans(head={"start": 4, "end": 4}), "entity e1 4:4 is no part of the text"),
        (spans(head=[0, 16]), "entities e1 0:16 and e2 15:19 overlap"),
        (spans(head={"start": 0}), "field 'head' is {'start': 0}"),
        (spans(head="Anna"), "field 'head' is 'Anna'"),
        (spans(head=[0.0, 4.0]), r"field 'head' is \[0.0, 4.0\]"),
        (spans(text=MARKED), r"the text itself holds <e1> \(character 0\)"),
    ],
)
def test_wrong_entities_are_named_by_file_and_line(tmp_path, row, told):
    assert refusal(put(tmp_path, "x.jsonl", [spans(), row])).startswith(f"{tmp_path / 'x.jsonl'}:2: ")
    with pytest.raises(DataError, match=told):
        read(put(tmp_path, "x.jsonl", [spans(), row]))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SEMEVAL + '\n8003\t"No <e1>label</e1> for <e2>it</e2>."\n', ":9: 0 lines of relations"),
        (SEMEVAL + "\nOther\n", ":9: 'Other' is no numbered sentence in quotes"),
        (SEMEVAL.replace("\r\n\r\n\r\n", "\n"), ":1: 3 lines of relations"),
    ],
)
def test_a_broken_block_of_semeval_is_named_by_its_line(tmp_path, text, told):
    assert told in refusal(put(tmp_path, "train.txt", text))


def test_unmarked_texts_are_no_relations(tmp_path):
    for name in ("train", "dev", "test"):
        put(tmp_path, f"{name}.jsonl", json.dumps({"text": TEXT, "label": LABEL}) + "\n")
    with pytest.raises(DataError, match=r"jsonl:1: no entity is marked. Allowed: .*<e1>"):
        load_splits(DataConfig(path=str(tmp_path)), RelationExtraction())
