"""Extractive question answering: the characters of a context that answer a question, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, Strict, StrictBool

from agent.encoding import Document, Encoder, Float32, Int64
from agent.errors import DataError, RequestError
from agent.tasks.base import BaseTask, Column, Join, Report, as_json
from agent.tasks.output_decision import TOKENS, Decision
from agent.tasks.pairs import Outcome, Pair
from agent.tasks.question_answering.answer_spans import Reading, context_edges, context_of, read_windows
from agent.tasks.question_answering.answered_question import SHAPE, AnsweredQuestion, read_question
from agent.tasks.question_answering.squad_scores import NO_ANSWER, answer_scores, choose_threshold, score_answers
from agent.tasks.record_fields import refuse_reward
from agent.tasks.requests.request_parameters import WHOLE, Parameters
from agent.tasks.rewards.sampled_answers import RewardsSamples
from agent.windows.text_pairs import TextPair

ANSWER = "answer"
_EVEN = 0.5  # without a chosen threshold an answer is given where it is likelier than none
_MOST_ANSWERS = 100
_COMPARED_ANSWERS = 20  # the usual number of best answers in evaluations of SQuAD


class AnswerParameters(Parameters):
    """Parameters of a question-answering request, named as in Hugging Face's API."""

    top_k: Annotated[int, Strict(), Field(ge=1, le=_MOST_ANSWERS), WHOLE] | None = Field(
        None, description="How many answers to return, best first, as a list; by default the best one as an object."
    )
    max_answer_len: Annotated[int, Strict(), Field(ge=1, le=512), WHOLE] | None = Field(
        None, description="Sub-words of the longest answer; the agent's own by default."
    )
    handle_impossible_answer: StrictBool | None = Field(
        None,
        description="Whether the answer may be none, an empty one; by default where the agent has learned that from questions without answers.",
    )
    align_to_words: StrictBool = Field(
        True, description="Whether answers that begin or end within a word are widened to it."
    )


class Answer(BaseModel):
    """An answer: characters `start` to `end` of the context; an empty one is that there is none."""

    score: float
    start: int
    end: int
    answer: str


@dataclass(frozen=True)
class FoundAnswer:
    """What an agent says to a question.

    Attributes:
        answer: What it answers, empty for none; two predictions that have it in common are equal.
        best: The best answer, whether it is given or not.
        confidence: In it.
        start: Of the best answer in the context.
    """

    answer: str
    best: str = field(compare=False)
    confidence: float = field(compare=False)
    start: int = field(compare=False)


class QuestionAnswering(BaseTask[AnsweredQuestion], RewardsSamples):
    """The part of a context that answers a question."""

    architecture: ClassVar[str] = "AutoModelForQuestionAnswering"
    decision: ClassVar[Decision] = TOKENS
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"question", "context", "answers"}),)
    record_shape: ClassVar[str] = SHAPE
    purpose: ClassVar[str] = "Answers questions with words of a text."
    picture: ClassVar[Literal["marks", "ranking", "answers"]] = "answers"
    item_name: ClassVar[str] = ANSWER
    tunes: ClassVar[bool] = True
    parameters: ClassVar[type[Parameters]] = AnswerParameters
    answer_item: ClassVar[type[BaseModel]] = Answer
    answer_field: ClassVar[str] = "answers"
    bare_answers: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column("answer", "BYTES", lambda answer: str(answer[0]["answer"])),
        Column("score", "FP32", lambda answer: float(answer[0]["score"])),
        Column("answers", "BYTES", as_json),
    )
    input_fields: ClassVar[tuple[str, ...]] = ("question", "context")

    kind: Literal["question_answering"] = "question_answering"
    max_answer_tokens: int = Field(30, ge=1, le=512, description="sub-words of the longest answer that is looked for")
    null_threshold: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="share of the best answer beside no answer from which on it is given; by default chosen on dev where that has "
        "questions without answers, else every question is answered",
    )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Start and end, each of which chooses a token."""
        return "start", "end"

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> AnsweredQuestion:
        """Reads `{"question", "context", "answers": {"text", "answer_start"}}`."""
        refuse_reward(record, where, self.kind)
        return read_question(record, where)

    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> AnsweredQuestion:
        """The question without an answer."""
        return read_question({**record, "answers": {"text": [], "answer_start": []}}, where)

    def labels_of(self, example: AnsweredQuestion) -> set[str]:
        """One label for all answers."""
        return {ANSWER} if example.answers else set()

    def text_of(self, example: AnsweredQuestion) -> str:
        """Question and context."""
        return TextPair(example.question, example.context)

    def encode(self, encoder: Encoder, examples: Sequence[AnsweredQuestion]) -> list[Document]:
        """Encodes questions with their contexts.

        Raises:
            DataError: A question is too long to stand in every window; names its place.
        """
        texts = list(map(self.text_of, examples))
        try:
            return encoder.encode_texts(texts, whole_first="question")
        except RequestError:
            for text, example in zip(texts, examples, strict=True):
                try:
                    encoder.encode_texts([text], whole_first="question")
                except RequestError as error:
                    what = error.what.removeprefix("inputs[0].")
                    raise DataError(f"{example.where}: {what}", allowed=error.allowed, remedy=error.remedy) from None
            raise

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes questions with their contexts.

        Raises:
            RequestError: An input is a single text, or a question is too long to stand in every window.
        """
        for index, text in enumerate(texts):
            if not isinstance(text, TextPair):
                raise RequestError(
                    f"inputs[{index}] is a single text",
                    allowed='objects {"question": "...", "context": "..."}',
                    remedy="send a question with its context",
                    field=f"inputs[{index}]",
                )
        return encoder.encode_texts(texts, stride=parameters.stride, whole_first="question")

    def targets(self, example: AnsweredQuestion, document: Document) -> list[Int64]:
        """First and last token of the first answer, int64 [2]; the first token twice where a window does not hold all of it."""
        missing = np.zeros(2, np.int64)
        if not example.answers:
            return [missing] * len(document.windows)
        lead, starts, ends = context_edges(document)
        gold = example.answers[0]
        first = lead + int(np.searchsorted(ends, gold.start, side="right"))
        last = lead + int(np.searchsorted(starts, gold.end, side="left")) - 1
        return [
            np.array([first, last], np.int64) - window.first + window.offset
            if window.first <= first <= last < window.last
            else missing
            for window in document.windows
        ]

    def predict(self, document: Document, outputs: Sequence[Float32]) -> FoundAnswer:
        """The answer that `answer` gives by default."""
        context = context_of(document)
        reading = self._read(document, outputs, AnswerParameters())
        best = reading.spans[0] if reading.spans else None
        text = context[best.start : best.end] if best else NO_ANSWER
        given = text if self._gives(reading.confidence) else NO_ANSWER
        return FoundAnswer(given, text, reading.confidence, best.start if best else 0)

    def tuned(self, examples: Sequence[AnsweredQuestion], predictions: Sequence[FoundAnswer]) -> Self:
        """With the threshold that does best on these examples, if some have no answer; one that was configured stays."""
        answerable = [bool(example.answers) for example in examples]
        if self.null_threshold is not None or all(answerable):
            return self
        f1 = [
            answer_scores(example.texts, found.best)[1] if example.answers else 0.0
            for example, found in zip(examples, predictions, strict=True)
        ]
        confidences = np.array([found.confidence for found in predictions], np.float32)
        return self.model_copy(update={"null_threshold": choose_threshold(answerable, f1, confidences)})

    def score(self, examples: Sequence[AnsweredQuestion], predictions: Sequence[FoundAnswer]) -> Report:
        """Exact match and F1 by SQuAD's official rules; the primary metric is F1."""
        answers = [found.best if self._gives(found.confidence) else NO_ANSWER for found in predictions]
        return score_answers([example.texts for example in examples], answers)

    def pairs(self, example: AnsweredQuestion, prediction: FoundAnswer) -> list[Pair]:
        """One pair for each question: the gold answer that fits best beside the predicted one; either may be that there is none."""
        said = prediction.best if self._gives(prediction.confidence) else NO_ANSWER
        gold = max(example.texts, key=lambda text: answer_scores([text], said)[1], default=NO_ANSWER)
        right, (wanted, found) = answer_scores(example.texts, said)[0] == 1, map(_label, (gold, said))
        outcome: Outcome = "right" if right else "confused" if wanted != found else "boundary"
        return [
            Pair(
                outcome=outcome, gold=wanted, predicted=found, gold_text=gold, predicted_text=said,
                shifted=outcome == "boundary",
            )
        ]  # fmt: skip

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: AnswerParameters
    ) -> list[dict[str, Any]]:
        """Answers with exact characters of the context, best first; an empty one stands for none."""
        context, reading = context_of(document), self._read(document, outputs, parameters)
        found: list[dict[str, Any]] = [
            {"score": span.score, "start": span.start, "end": span.end, "answer": context[span.start : span.end]}
            for span in reading.spans
        ]
        asked = parameters.handle_impossible_answer
        may_be_none = self.null_threshold is not None if asked is None else asked
        if may_be_none or not found:
            none = {"score": reading.no_answer, "start": 0, "end": 0, "answer": NO_ANSWER}
            given = found and reading.confidence >= (self.null_threshold or _EVEN)
            later = [place for place in range(1, len(found)) if found[place]["score"] < reading.no_answer]
            found.insert((later[0] if later else len(found)) if given else 0, none)
        return found[: parameters.top_k or 1]

    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The question with the best answer, or with none."""
        given = [item for item in answer[:1] if item["answer"]]
        texts, starts = [item["answer"] for item in given], [item["start"] for item in given]
        return {**self.fields_of(text), "answers": {"text": texts, "answer_start": starts}}

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """One of the best answers, and of none where the agent may say so: their probabilities beside each other."""
        reading = self._read(document, outputs, AnswerParameters(top_k=_COMPARED_ANSWERS))
        scores = [span.score for span in reading.spans]
        if self.null_threshold is not None or not scores:
            threshold = self.null_threshold or _EVEN
            scores.append(reading.no_answer * threshold / (1 - threshold))
        padded = np.array([scores + [0.0] * (_COMPARED_ANSWERS + 1 - len(scores))], np.float32)
        return np.asarray(padded / padded.sum(), np.float32)

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """Whether there was an answer."""
        return [(_label(item["answer"]), item["score"]) for item in answer[:1]]

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """The best answer as an object, or with `top_k` a list: as Hugging Face's API does it."""
        shaped: list[Any] = answers if parameters.top_k else [answer[0] for answer in answers]
        return shaped[0] if single else shaped

    def best_choices(self, logits: Float32) -> Int64:
        """Start and end of the best answer in a window, of its length at most, or its first token twice for none."""
        scores = logits[0][:, None] + logits[1][None, :]
        further = np.arange(len(scores))[None, :] - np.arange(len(scores))[:, None]
        scores[(further < 0) | (further >= self.max_answer_tokens)] = -np.inf
        scores[0, 1:] = -np.inf
        return np.array(divmod(int(scores.argmax()), len(scores)), np.int64)

    def reward_of(self, chosen: Int64, wanted: Int64) -> float:
        """Exact match of the answer's tokens with those of the first gold answer, or of none with none."""
        return float((chosen == wanted).all())

    def _gives(self, confidence: float) -> bool:
        """Whether an answer of this confidence is given; always by an agent that knows no questions without answers."""
        return self.null_threshold is None or confidence >= self.null_threshold

    def _read(self, document: Document, outputs: Sequence[Float32], parameters: AnswerParameters) -> Reading:
        return read_windows(
            document,
            outputs,
            max_tokens=parameters.max_answer_len or self.max_answer_tokens,
            top_k=parameters.top_k or 1,
            whole_words=parameters.align_to_words,
        )


def _label(answer: str) -> str:
    return ANSWER if answer else f"no {ANSWER}"
