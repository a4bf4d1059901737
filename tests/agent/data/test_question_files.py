"""Questions with contexts and answers: SQuAD's articles, Hugging Face's flat form, answers of an agent, and what is wrong by file and line."""

from __future__ import annotations

import json

import pyarrow
import pytest
from pyarrow import parquet

from agent.data import DataConfig, load_splits
from agent.errors import DataError
from agent.tasks import QuestionAnswering
from tests.agent.data.reading import put, read, refusal

CONTEXT = "Anna flew to Lima. Bruno stayed."
FLAT = {"id": "a", "question": "Who flew?", "context": CONTEXT, "answers": {"text": ["Anna"], "answer_start": [0]}}


def squad(*questions, context=CONTEXT, **more):
    return {
        "version": "v2.0",
        "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(questions)}]}],
    } | more


ANSWERED = {
    "id": "a",
    "question": "Who flew?",
    "answers": [{"text": "Anna", "answer_start": 0}],
    "is_impossible": False,
}
IMPOSSIBLE = {
    "id": "b", "question": "Who slept?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "Bruno", "answer_start": 19}],
}  # fmt: skip
NONE = {"text": [], "answer_start": []}


@pytest.mark.parametrize("indent", [None, 1])
def test_articles_of_squad_become_questions(tmp_path, indent):
    file = put(tmp_path, "x.json", json.dumps(squad(ANSWERED, IMPOSSIBLE), indent=indent))
    assert read(file) == [
        FLAT,
        {"id": "b", "question": "Who slept?", "context": CONTEXT, "answers": NONE},
    ]


def test_articles_stand_one_a_line_too(tmp_path):
    article = squad(ANSWERED)["data"][0]
    file = put(tmp_path, "x.jsonl", "".join(json.dumps(article) + "\n" for _ in range(2)))
    assert read(file) == [FLAT, FLAT]


def test_the_flat_form_is_read_from_lines_and_parquet(tmp_path):
    rows = [FLAT, FLAT | {"id": "b", "answers": NONE}]
    assert read(put(tmp_path, "x.jsonl", rows)) == rows
    table = pyarrow.table({key: [row[key] for row in rows] for key in FLAT})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == rows


def test_answers_of_an_agent_are_data(tmp_path):
    answer = {"score": 0.9, "start": 0, "end": 4, "answer": "Anna"}
    none = {"score": 0.9, "start": 0, "end": 0, "answer": ""}
    rows = [{"question": "Who flew?", "context": CONTEXT, "answers": [given]} for given in (answer, none)]
    assert [row["answers"] for row in read(put(tmp_path, "x.jsonl", rows))] == [FLAT["answers"], NONE]


@pytest.mark.parametrize(
    ("questions", "line", "told"),
    [
        ([ANSWERED, IMPOSSIBLE | {"answers": [{"text": "Bruno", "answer_start": 19}]}], 22, "is_impossible, with answers"),
        ([ANSWERED, ANSWERED | {"id": "c", "answers": []}], 22, "no answers"),
    ],
)  # fmt: skip
def test_contradictions_of_squad_are_named_with_their_line(tmp_path, questions, line, told):
    file = put(tmp_path, "x.json", json.dumps(squad(*questions), indent=1))
    assert json.dumps(questions[1]["id"]) in file.read_text().splitlines()[line - 1]
    message = refusal(file)
    assert f"x.json:{line}: [0].paragraphs[0].qas[1]: {told}" in message


def test_wrong_offsets_are_named_with_their_line(tmp_path):
    wrong = ANSWERED | {"id": "c", "answers": [{"text": "Anna", "answer_start": 4}]}
    for name in ("train", "dev", "test"):
        put(tmp_path, f"{name}.json", json.dumps(squad(ANSWERED, wrong), indent=1))
    lines = (tmp_path / "train.json").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if '"c"' in text)
    with pytest.raises(DataError, match=rf"train.json:{line}: .*'Anna' stands at 0; at 4 the context has ' fle'"):
        load_splits(DataConfig(path=str(tmp_path)), QuestionAnswering())


@pytest.mark.parametrize("paragraph", [{"context": "x"}, {"qas": []}, "x", {"context": "x", "qas": ["y"]}])
def test_paragraphs_of_another_kind_are_refused(tmp_path, paragraph):
    file = put(tmp_path, "x.json", json.dumps({"data": [{"title": "T", "paragraphs": [paragraph]}]}))
    assert "paragraphs[0] is no paragraph of SQuAD" in refusal(file)


def test_data_of_another_task_is_refused_by_name(tmp_path):
    for name in ("train", "dev", "test"):
        put(tmp_path, f"{name}.jsonl", [{"text": "a", "label": "b"}])
    with pytest.raises(DataError, match="data for text_classification, and the task is question_answering"):
        load_splits(DataConfig(path=str(tmp_path)), QuestionAnswering())
