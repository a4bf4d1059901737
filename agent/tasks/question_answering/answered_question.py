"""A question with its context and its gold answers, read and checked: every answer stands where its offset says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict

from agent.errors import DataError
from agent.tasks.base import Example
from agent.tasks.record_fields import require_text

SHAPE = '{"question": "...", "context": "...", "answers": {"text": ["..."], "answer_start": [0]}}, the lists empty where there is no answer'


class GoldAnswer(BaseModel):
    """Characters of a context."""

    model_config = ConfigDict(frozen=True)

    text: str
    start: int

    @property
    def end(self) -> int:
        """Exclusive."""
        return self.start + len(self.text)


class AnsweredQuestion(Example):
    """A question about a context, and the answers that people gave; none where it has no answer."""

    question: str
    context: str
    answers: tuple[GoldAnswer, ...]

    @property
    def texts(self) -> list[str]:
        """The answers."""
        return [answer.text for answer in self.answers]


def read_question(record: Mapping[str, Any], where: str) -> AnsweredQuestion:
    """Reads a record in Hugging Face's flat form.

    Raises:
        DataError: A text is missing or empty, or an answer does not stand where its offset says; names the place.
    """
    question, context = (require_text(record, key, where, SHAPE) for key in ("question", "context"))
    for key, text in (("question", question), ("context", context)):
        if not text.strip():
            raise DataError(f"{where}: field {key!r} is empty", allowed=SHAPE, remedy="mend or delete the record")
    answers = record.get("answers")
    texts, starts = (
        (answers.get(key) for key in ("text", "answer_start")) if isinstance(answers, Mapping) else (None, None)
    )
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        shown = "absent" if "answers" not in record else repr(answers)[:200]
        raise DataError(
            f"{where}: field 'answers' is {shown}",
            allowed=f"{SHAPE}, a start for each text",
            remedy="mend the record",
        )
    golds = tuple(_gold(text, start, context, f"{where}: answers[{index}]")
                  for index, (text, start) in enumerate(zip(texts, starts, strict=True)))  # fmt: skip
    return AnsweredQuestion(where=where, question=question, context=context, answers=golds)


def _gold(text: Any, start: Any, context: str, place: str) -> GoldAnswer:
    if not isinstance(text, str) or not text.strip() or type(start) is not int:
        _refuse(f"{place} is {text!r} at {start!r}", "write a text of at least one character and a whole number")
    if not 0 <= start <= len(context) - len(text):
        _refuse(f"{place} {text[:80]!r} at {start} lies outside of the context, which has {len(context)} characters")
    if (held := context[start : start + len(text)]) != text:
        elsewhere = context.find(text)
        found = f"stands at {elsewhere}" if elsewhere >= 0 else "does not stand in the context"
        _refuse(f"{place} {text[:80]!r} {found}; at {start} the context has {held[:80]!r}")
    return GoldAnswer(text=text, start=start)


def _refuse(what: str, remedy: str = "mend the answer or its answer_start") -> NoReturn:
    raise DataError(
        what, allowed="answers that stand in the context from answer_start on, in characters", remedy=remedy
    )
