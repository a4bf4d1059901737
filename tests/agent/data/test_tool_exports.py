"""Exports of Prodigy, doccano, Label Studio and brat: what is read, what is left out and counted, what is refused."""

import json

import pytest

from agent.data.formats import brat, doccano, label_studio, prodigy
from agent.errors import DataError
from agent.tasks import TextClassification
from tests.agent.data.reading import notes, put, read, refusal, source_of, spanned

TEXT = "Anna Lund left Oslo."
ANNA = spanned(TEXT, (0, 9, "PER"), (15, 19, "LOC"))

# --- Prodigy


def task(answer="accept", **more):
    tokens = [{"text": "Anna", "start": 0, "end": 4, "id": 0, "ws": True}]
    spans = [{**span, "token_start": 0, "token_end": 1} for span in ANNA["spans"]]
    return {
        "text": TEXT,
        "_input_hash": 1,
        "_task_hash": 2,
        "_view_id": "ner_manual",
        "tokens": tokens,
        "spans": spans,
        "answer": answer,
    } | more


def test_accepted_tasks_of_prodigy_are_read_and_others_counted(tmp_path):
    unlabelled = {key: value for key, value in task().items() if key != "spans"}
    tasks = [task(), task("reject"), task("ignore"), task("reject"), unlabelled]
    file = put(tmp_path, "x.jsonl", tasks)
    assert source_of(file).name == "Prodigy in JSON lines"
    assert read(file) == [ANNA, spanned(TEXT)]
    assert notes(file) == ["left out: 2 rejected, 1 ignored"]


def test_binary_answers_of_prodigy_are_said(tmp_path):
    (said,) = notes(put(tmp_path, "x.jsonl", [task(_view_id="ner")]))
    assert "entities that were not asked about count as none" in said


def test_classes_of_prodigy_are_read(tmp_path):
    choice = {
        "text": "back!",
        "options": [{"id": "refund"}, {"id": "praise"}],
        "accept": ["refund"],
        "answer": "accept",
    }
    assert read(put(tmp_path, "x.jsonl", [choice]))[0]["label"] == "refund"
    both = read(put(tmp_path, "y.jsonl", [choice | {"accept": ["refund", "praise"]}]))[0]
    assert (both["labels"], "label" in both) == (["refund", "praise"], False)


def test_an_answer_that_is_none_of_prodigys_is_refused(tmp_path):
    assert "x.jsonl:2: answer 'maybe'. Allowed: accept, reject or ignore" in refusal(
        put(tmp_path, "x.jsonl", [task(), task("maybe")])
    )


# --- doccano

TRIPLES = [[0, 9, "PER"], [15, 19, "LOC"]]
OFFSETS = [
    {"id": 5, "label": "PER", "start_offset": 0, "end_offset": 9},
    {"id": 6, "label": "LOC", "start_offset": 15, "end_offset": 19},
]


@pytest.mark.parametrize(
    "found",
    [
        {"id": 1, "text": TEXT, "label": TRIPLES},
        {"id": 1, "data": TEXT, "label": TRIPLES, "Comments": []},
        {"text": TEXT, "labels": TRIPLES},
        {"id": 1, "text": TEXT, "entities": OFFSETS, "relations": [], "Comments": []},
        {"id": 1, "text": TEXT, "annotations": [{**one, "user": 1} for one in OFFSETS], "meta": {}},
    ],
)
def test_every_shape_of_doccano_is_read(tmp_path, found):
    file = put(tmp_path, "x.jsonl", [found])
    assert source_of(file).name == "doccano in JSON lines"
    assert [{key: record[key] for key in ("text", "spans")} for record in read(file)] == [ANNA]


@pytest.mark.parametrize(
    ("silent", "found"),
    [
        ({"text": "b", "annotations": [], "meta": {}}, {"text": "🙂 Anna", "annotations": [{"label": "PER", "start_offset": 3, "end_offset": 7}]}),
        ({"text": "b", "entities": []}, {"text": "🙂 Anna", "entities": [{"label": "PER", "start_offset": 3, "end_offset": 7}]}),
        ({"text": "b", "label": []}, {"text": "🙂 Anna", "label": [[3, 7, "PER"]]}),
    ],
)  # fmt: skip
def test_a_first_text_without_annotations_does_not_tell_the_shape(tmp_path, silent, found):
    file = put(tmp_path, "x.jsonl", [silent, found])
    assert source_of(file).name == "doccano in JSON lines"
    assert [record["spans"] for record in read(file)] == [[], [{"start": 2, "end": 6, "label": "PER"}]]


def test_classes_and_relations_of_doccano(tmp_path):
    assert read(put(tmp_path, "x.jsonl", [{"id": 1, "text": "a", "label": ["refund"]}])) == [
        {"text": "a", "label": "refund", "labels": ["refund"]}
    ]
    (both,) = read(put(tmp_path, "x.jsonl", [{"id": 1, "text": "a", "label": ["refund", "praise"]}]))
    assert both == {"text": "a", "labels": ["refund", "praise"]}
    with pytest.raises(DataError, match=r"x:1: 2 classes \(refund, praise\).*task.kind=multi_label_classification"):
        TextClassification().read_record(both, "x:1")
    related = {"text": TEXT, "entities": OFFSETS, "relations": [{"id": 1, "from_id": 5, "to_id": 6, "type": "in"}]}
    assert notes(put(tmp_path, "y.jsonl", [related])) == ["1 relations are not read"]


def test_numbers_of_doccanos_database_are_no_labels(tmp_path):
    found = {"text": TEXT, "annotations": [{"label": 12, "start_offset": 0, "end_offset": 9, "user": 1}]}
    assert "x.jsonl:1: label 12 is a number of doccano's database" in refusal(put(tmp_path, "x.jsonl", [found]))


def test_offsets_of_doccano_are_utf16_units_unless_told(tmp_path):
    file = put(tmp_path, "x.jsonl", [{"id": 1, "text": "🙂 Anna", "label": [[3, 7, "PER"]]}])
    assert read(file) == [spanned("🙂 Anna", (2, 6, "PER"))]
    assert notes(file) == [
        "1 spans are read as UTF-16 units, doccano's default; data.spans.offsets=characters if they are not"
    ]
    assert read(
        put(tmp_path, "y.jsonl", [{"id": 1, "text": "🙂 Anna", "label": [[2, 6, "PER"]]}]), offsets="characters"
    ) == [spanned("🙂 Anna", (2, 6, "PER"))]
    assert notes(put(tmp_path, "z.jsonl", [{"id": 1, "text": "Anna 🙂", "label": [[0, 4, "PER"]]}])) == []


# --- Label Studio


def region(first, last, label, **more):
    value = {"start": first, "end": last, "text": TEXT[first:last], "labels": [label]} | more
    return {"id": "x", "from_name": "label", "to_name": "text", "type": "labels", "origin": "manual", "value": value}


def studio(*annotations, **data):
    return {"id": 1, "data": data or {"text": TEXT}, "annotations": list(annotations), "predictions": []}


REGIONS = {
    "id": 9,
    "result": [region(0, 9, "PER"), region(15, 19, "LOC")],
    "was_cancelled": False,
    "ground_truth": False,
}


@pytest.mark.parametrize("form", ["x.json", "x.jsonl"])
def test_tasks_of_label_studio_are_read(tmp_path, form):
    tasks = [studio(REGIONS), studio({"result": []}), studio(), studio(REGIONS | {"was_cancelled": True})]
    file = put(tmp_path, form, tasks if form == "x.jsonl" else json.dumps(tasks))
    assert read(file) == [ANNA, spanned(TEXT)]
    assert notes(file) == ["left out: 1 not annotated, 1 skipped by their annotator"]


def test_predictions_are_no_annotations(tmp_path):
    file = put(tmp_path, "x.json", json.dumps([label_studio.write(TEXT, ANNA["spans"])] * 2))
    assert (source_of(file).name, read(file)) == ("Label Studio in a JSON array", [])
    assert notes(file) == ["left out: 2 not annotated"]


def test_the_text_of_label_studio_is_found(tmp_path):
    assert read(put(tmp_path, "x.json", json.dumps([studio(REGIONS, document=TEXT, page=3)]))) == [ANNA]
    assert read(put(tmp_path, "y.json", json.dumps([studio(REGIONS, title="x", text=TEXT)]))) == [ANNA]
    assert "it is not clear which is the text" in refusal(
        put(tmp_path, "z.json", json.dumps([studio(REGIONS, a=TEXT, b="x")]))
    )


def test_the_ground_truth_is_read_of_several_annotations(tmp_path):
    other = {"result": [region(0, 9, "ORG")]}
    file = put(tmp_path, "x.json", json.dumps([studio(other, REGIONS | {"ground_truth": True})]))
    assert read(file) == [ANNA]
    assert notes(file) == ["1 further annotations of the same task: the ground truth is read, or else the first"]


def test_choices_and_json_min_of_label_studio(tmp_path):
    choice = {"type": "choices", "to_name": "text", "value": {"choices": ["refund"]}}
    assert read(put(tmp_path, "x.json", json.dumps([studio({"result": [choice]})])))[0]["label"] == "refund"
    flat = {
        "text": TEXT,
        "id": 1,
        "label": [region(0, 9, "PER")["value"], region(15, 19, "LOC")["value"]],
        "annotator": 1,
        "annotation_id": 9,
    }
    assert read(put(tmp_path, "y.json", json.dumps([flat]))) == [ANNA]


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (region(0, 9, "PER", labels=["PER", "ORG"]), "the region 0:9 has 2 labels"),
        (region(0, 9, "PER", start="/div[1]/text()[1]"), "a region of HTML"),
    ],
)
def test_regions_that_are_no_spans_are_refused(tmp_path, wrong, part):
    assert f"x.json[0]: {part}" in refusal(put(tmp_path, "x.json", json.dumps([studio({"result": [wrong]})])))


# --- brat

ANN = "T1\tPER 0 9\tAnna Lund\nT2\tLOC 15 19\tOslo\nR1\tin Arg1:T1 Arg2:T2\n#1\tAnnotatorNotes T1\tsure\n"


def test_pairs_of_brat_are_read(tmp_path):
    put(tmp_path, "a.txt", TEXT)
    file = put(tmp_path, "a.ann", ANN)
    assert source_of(file).name == "brat"
    assert read(file) == [ANNA]
    assert notes(file) == ["1 relations are not read", "1 notes are not read"]


def test_line_ends_in_spans_of_brat(tmp_path):
    put(tmp_path, "a.txt", "Anna\nLund left")
    file = put(tmp_path, "a.ann", "T1\tPER 0 4;5 9\tAnna Lund\n")
    assert read(file) == [spanned("Anna\nLund left", (0, 9, "PER"))]


def test_discontinuous_spans_are_named_or_settled(tmp_path):
    files = []
    for number in range(5):
        put(tmp_path, f"{number}.txt", "Anna and Bo Lund left Oslo")
        files.append(put(tmp_path, f"{number}.ann", "T1\tPER 0 4;12 16\tAnna Lund\nT2\tLOC 22 26\tOslo\n"))
    message = refusal(*files)
    assert message.startswith(f"5 discontinuous span(s): {files[0]}: PER 0 4;12 16; {files[1]}: PER")
    assert "; 2 more. Allowed: spans of one part. Remedy: " in message
    assert read(*files, discontinuous="cover")[0]["spans"] == spanned("", (0, 16, "PER"), (22, 26, "LOC"))["spans"]
    assert read(*files, discontinuous="leave_out")[0]["spans"] == spanned("", (22, 26, "LOC"))["spans"]
    assert notes(*files, discontinuous="leave_out") == ["5 discontinuous spans, left out"]


def test_broken_pairs_of_brat_are_named(tmp_path):
    alone = put(tmp_path, "b.ann", ANN)
    assert "b.ann has no text: there is no b.txt beside it" in refusal(alone)
    put(tmp_path, "b.txt", TEXT)
    assert "b.ann:1: 'T1 PER 0 9 Anna' is no annotation of brat" in refusal(put(tmp_path, "b.ann", "T1 PER 0 9 Anna\n"))
    assert "spans[0] 0:9 is 'Anna Lund' and should be 'Bo'" in refusal(put(tmp_path, "b.ann", "T1\tPER 0 9\tBo\n"))


# --- what an agent answered to files of tools

ANSWERS = [{"entity_group": "PER", "score": 0.9, "word": "Anna Lund", "start": 0, "end": 9}, {"entity_group": "LOC", "score": 0.8, "word": "Oslo", "start": 15, "end": 19}]  # fmt: skip


@pytest.mark.parametrize(
    "task", [{"text": TEXT}, {"id": 1, "text": TEXT, "label": [], "Comments": []}, {"text": TEXT, "_input_hash": 1}, {"text": TEXT, "spans": []}]
)  # fmt: skip
def test_answers_beside_what_a_tool_left_empty_are_the_annotations(tmp_path, task):
    file = put(tmp_path, "x.jsonl", [task | {"entities": []}, task | {"entities": ANSWERS}])
    assert source_of(file).name == "answers of an agent in JSON lines"
    assert [{key: record[key] for key in ("text", "spans")} for record in read(file)] == [spanned(TEXT), ANNA]
    assert all(set(record) & {"label", "labels", "annotations"} == set() for record in read(file))


def test_answers_beside_annotations_of_people_are_refused(tmp_path):
    file = put(tmp_path, "x.jsonl", [{"text": TEXT, "label": TRIPLES, "entities": ANSWERS}])
    assert "x.jsonl:1: annotations in field 'label', and an agent's answers in field 'entities'" in refusal(file)


def test_tags_of_sub_words_are_no_annotations(tmp_path):
    item = {"entity": "B-PER", "index": 1, "score": 0.9, "word": "Anna", "start": 0, "end": 4}
    message = refusal(put(tmp_path, "x.jsonl", [{"text": TEXT, "entities": [item]}]))
    assert "x.jsonl:1: entities are tags of sub-words" in message
    assert "aggregation_strategy" in message


# --- round trips

EMOJI = "🙂 Anna Lund\nleft Oslo."
SPANS = spanned(EMOJI, (2, 11, "PER"), (17, 21, "LOC"))


@pytest.mark.parametrize(
    ("tool", "name"),
    [(prodigy, "Prodigy"), (doccano, "doccano"), (label_studio, "Label Studio")],
    ids=lambda tool: str(tool)[:20],
)
def test_what_is_written_for_a_tool_is_read_from_it(tmp_path, tool, name):
    written = tool.write(EMOJI, SPANS["spans"])
    if tool is prodigy:
        written |= {"answer": "accept"}  # what the person adds
    if tool is label_studio:
        written = {"data": written["data"], "annotations": written["predictions"]}
    file = put(tmp_path, "x.jsonl", [written])
    assert source_of(file).name == f"{name} in JSON lines"
    assert read(file) == [SPANS]


def test_classes_that_are_written_for_a_tool_are_read_from_it(tmp_path):
    one = [doccano.write_classes("a", ["x"]), doccano.write_classes("b", ["x", "y"]), doccano.write_classes("c", [])]
    assert source_of(put(tmp_path, "d.jsonl", one)).name == "doccano in JSON lines"
    read_back = read(put(tmp_path, "d.jsonl", one))
    assert [record["labels"] for record in read_back] == [["x"], ["x", "y"], []]
    tasks = [label_studio.write_classes("a", ["x"]), label_studio.write_classes("b", ["x", "y"])]
    done = [{"data": task["data"], "annotations": task["predictions"]} for task in tasks]
    assert [record["labels"] for record in read(put(tmp_path, "l.jsonl", done))] == [["x"], ["x", "y"]]
    tasks = [
        prodigy.write_classes("a", ["x"], ["x", "y"], several=False),
        prodigy.write_classes("b", ["x", "y"], ["x", "y"], several=True),
    ]
    done = [task | {"answer": "accept"} for task in tasks]  # what the person adds
    assert [record["labels"] for record in read(put(tmp_path, "p.jsonl", done))] == [["x"], ["x", "y"]]
    assert tasks[0]["options"] == [{"id": "x", "text": "x"}, {"id": "y", "text": "y"}]


def test_what_is_written_for_brat_is_read_from_it(tmp_path):
    put(tmp_path, "x.txt", EMOJI)
    assert read(put(tmp_path, "x.ann", brat.write(EMOJI, SPANS["spans"]))) == [SPANS]
