"""Questions with answers as records: Hugging Face's flat form, SQuAD's articles, and answers of an agent."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.data.formats.base import Record
from agent.errors import DataError

_TEXT, _START = ("text", "answer"), ("answer_start", "start")


def is_question(record: Mapping[str, Any]) -> bool:
    """Whether an object is a question with its context."""
    return {"question", "context"} <= set(record)


def holds_articles(record: Mapping[str, Any]) -> bool:
    """Whether an object is an article of SQuAD."""
    return isinstance(record.get("paragraphs"), list)


def read_answers(record: dict[str, Any]) -> dict[str, Any]:
    """A question in Hugging Face's flat form; what cannot be read so is left for the task to refuse."""
    answers = record.get("answers")
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        return record
    given = [answer for answer in answers if "answer" not in answer or answer["answer"]]  # an agent's empty one is none
    texts, starts = ([_first(answer, keys) for answer in given] for keys in (_TEXT, _START))
    return record | {"answers": {"text": texts, "answer_start": starts}}


def questions_of(articles: Iterable[Record], text: str = "") -> Iterator[Record]:
    """The questions of SQuAD's articles.

    Args:
        articles: Objects with `paragraphs`.
        text: Of the whole file where it is one JSON value: the lines of questions are found in it.

    Raises:
        DataError: An article is laid out otherwise, or a question has answers and is impossible, or neither; names it.
    """
    place, line = 0, 1
    for article, where in articles:
        if not holds_articles(article):
            raise DataError(f"{where}: no field 'paragraphs'", allowed="articles of SQuAD", remedy="mend the record")
        for number, paragraph in enumerate(article["paragraphs"]):
            inner = f"{where}.paragraphs[{number}]"
            for index, asked in enumerate(_questions(paragraph, inner)):
                told = f"{inner}.qas[{index}]"
                if text and (found := _place_of(asked, text, place)) >= 0:
                    line += text.count("\n", place, found)
                    place = found
                    told = f"{where.rpartition('[')[0]}:{line}: {told[where.rindex('[') :]}"
                yield _question(asked, paragraph["context"], told), told


def _questions(paragraph: Any, where: str) -> list[dict[str, Any]]:
    questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
    if not isinstance(questions, list) or "context" not in paragraph or not all(isinstance(q, dict) for q in questions):
        raise DataError(
            f"{where} is no paragraph of SQuAD",
            allowed='{"context": "...", "qas": [{"question": "...", "answers": [...]}]}',
            remedy="mend the file",
        )
    return questions


def _question(asked: Mapping[str, Any], context: Any, where: str) -> dict[str, Any]:
    impossible, answers = bool(asked.get("is_impossible")), asked.get("answers", [])
    if impossible == bool(answers):
        raise DataError(
            f"{where}: {'is_impossible, with answers' if answers else 'no answers'}",
            allowed="answers, or is_impossible: true",
            remedy="mend the question",
        )
    kept = {key: asked[key] for key in ("id", "question") if key in asked}
    return read_answers(kept | {"context": context, "answers": answers})


def _place_of(asked: Mapping[str, Any], text: str, start: int) -> int:
    """Where a question stands in the text of its file; -1 where that cannot be told."""
    sought = asked.get("id", asked.get("question"))
    return text.find(json.dumps(sought, ensure_ascii=False), start) if isinstance(sought, str) else -1


def _first(answer: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((answer[key] for key in keys if key in answer), None)
