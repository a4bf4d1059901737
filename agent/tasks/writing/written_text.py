"""What tasks that write have in common: examples of a text and what is written of it, scores, answers of sub-words."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field

from agent.encoding import IGNORED, Document, Encoder, Float32, Int64
from agent.errors import DataError, RequestError
from agent.generation.growing_text import GrowingText
from agent.tasks.base import BaseTask, Column, Example, Join, Report, as_json
from agent.tasks.masked_language.mask_scores import NamedToken, name_token, pair_tokens
from agent.tasks.output_decision import OF_VOCABULARY, Decision
from agent.tasks.pairs import Pair
from agent.tasks.record_fields import refuse_reward, require_text
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.writing.teacher_forcing import WrittenDocument
from agent.tasks.writing.text_scores import score_written
from agent.tasks.writing.writing_parameters import GenerationParameters

TEXT = "text"
SHAPE = '{"text": "...", "target": "..."}'


class WrittenText(Example):
    """A text and what is written of it."""

    text: str
    target: str


SCORE = Field(description="Geometric mean of the probabilities of its tokens.")
_TEXT_KEYS = ("generated_text", "translation_text", "summary_text")


class GeneratedText(BaseModel):
    """A text that was written."""

    generated_text: str
    score: float = SCORE


def text_in(answer: Sequence[Mapping[str, Any]]) -> str:
    """The text of an answer, whatever its key."""
    return str(next(answer[0][key] for key in _TEXT_KEYS if key in answer[0]))


class WritingTask(BaseTask[WrittenText]):
    """A text for each text, sub-word by sub-word."""

    decision: ClassVar[Decision] = OF_VOCABULARY
    picture: ClassVar[Literal["marks", "ranking", "answers", "fillings", "triples", "written"]] = "written"
    item_name: ClassVar[str] = TEXT
    writes: ClassVar[bool] = True
    parameters: ClassVar[type[Parameters]] = GenerationParameters
    answer_item: ClassVar[type[BaseModel]] = GeneratedText
    answer_field: ClassVar[str] = "texts"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("generated_text", "BYTES", text_in),
        Column("score", "FP32", lambda answer: float(answer[0]["score"])),
        Column("texts", "BYTES", as_json),
    )

    @property
    def text_key(self) -> str:
        """What an answer calls the text."""
        return _TEXT_KEYS[0]

    @property
    def default_beams(self) -> int:
        """Texts that are followed at once where a request does not say."""
        return 1

    def goes_on(self, text: str) -> bool:
        """Whether what is written goes on with a text, so that blanks between both belong to it."""
        return False

    def asked(self, parameters: Any) -> GenerationParameters:
        """How a request wants its texts written."""
        assert isinstance(parameters, GenerationParameters)
        return parameters

    @abstractmethod
    def new_tokens(self, encoder: Encoder, document: WrittenDocument, parameters: Any) -> int:
        """Tokens that are written at most of what is given; raises RequestError where there is no room for those asked for."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """None with a name of its own: the sub-words of the tokenizer."""
        return ()

    def num_outputs(self, encoder: Encoder) -> int:
        """The size of the vocabulary; a model may have more rows."""
        return encoder.vocabulary.size

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> WrittenText:
        """Reads `{"text", "target"}`, neither blank."""
        refuse_reward(record, where, self.kind)
        return WrittenText(
            where=where, text=self._text(record, "text", where), target=self._text(record, "target", where)
        )

    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> WrittenText:
        """The text, of which nothing is written yet."""
        return WrittenText(where=where, text=self._text(record, "text", where), target="")

    def _text(self, record: Mapping[str, Any], key: str, where: str) -> str:
        text = require_text(record, key, where, self.record_shape)
        if not text.strip():
            raise DataError(f"{where}: field {key!r} is blank", allowed=self.record_shape, remedy="mend or delete it")
        return text

    def labels_of(self, example: WrittenText) -> set[str]:
        """One label for all texts."""
        return {TEXT} if example.target else set()

    def text_of(self, example: WrittenText) -> str:
        """The text that is given."""
        return example.text

    @abstractmethod
    def written(self, encoder: Encoder, examples: Sequence[WrittenText]) -> list[WrittenDocument]:
        """Encodes examples with what is written of them; raises RequestError with their places."""

    def encode(self, encoder: Encoder, examples: Sequence[WrittenText]) -> list[Document]:
        """Encodes texts with what is written of them.

        Raises:
            DataError: One does not fit into the model; names its place.
        """
        try:
            return list(self.written(encoder, examples))
        except RequestError as error:
            raise DataError(error.what, allowed=error.allowed, remedy=error.remedy) from None

    def targets(self, example: WrittenText, document: Document) -> list[Int64]:
        """The written sub-words, each at the token that stands for it or says it; -100 elsewhere."""
        assert isinstance(document, WrittenDocument)
        return [document.targets(index) for index in range(len(document.windows))]

    def predict(self, document: Document, outputs: Sequence[Float32]) -> tuple[NamedToken, ...]:
        """The likeliest sub-word in each place, beside the right one."""
        if not isinstance(document, WrittenDocument) or document.vocabulary is None:
            return ()
        targets = [document.targets(index) for index in range(len(document.windows))]
        return tuple(
            name_token(document.vocabulary, int(gold), number, logits)
            for number, (wanted, rows) in enumerate(zip(targets, outputs, strict=True))
            for gold, logits in zip(wanted[wanted != IGNORED], rows, strict=True)
        )

    def score(self, examples: Sequence[WrittenText], predictions: Sequence[Sequence[NamedToken]]) -> Report:
        """Accuracy and perplexity of sub-words after the right ones."""
        return score_written(predictions)

    def pairs(self, example: WrittenText, prediction: Sequence[NamedToken]) -> list[Pair]:
        """Each right sub-word beside the one named in its place."""
        return pair_tokens(prediction, TEXT)

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: GenerationParameters
    ) -> list[dict[str, Any]]:
        """The text of the likeliest sub-words of each row of logits, up to the token that ends a text."""
        if not isinstance(document, WrittenDocument) or document.vocabulary is None:
            return []
        vocabulary, said, total = document.vocabulary, list[int](), 0.0
        for logits in (row for rows in outputs for row in rows):
            said.append(int(logits[: vocabulary.size].argmax()))
            total += name_token(vocabulary, said[-1], 0, logits).log_probability
        generated = vocabulary.tokenizer.decode(said, skip_special_tokens=True)
        return [{self.text_key: generated, "score": math.exp(total / max(len(said), 1))}]

    def answer_written(self, text: str, written: GrowingText, parameters: Any) -> list[dict[str, Any]]:
        """What a caller gets of a text that was written for his, by an engine that generates."""
        return [
            {self.text_key: written.text, "score": math.exp(written.log_probability / max(len(written.numbers), 1))}
        ]

    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The text with what was written of it."""
        return {"text": text, "target": text_in(answer)}

    @property
    def annotation_field(self) -> str:
        """As an answer calls the text."""
        return self.text_key

    @property
    def annotation_type(self) -> Any:
        """The text alone, so that records are training data where the field is called `target`."""
        return str

    def annotation(self, answer: Sequence[Mapping[str, Any]]) -> Any:
        """The text."""
        return text_in(answer)

    def check_annotation(self, encoder: Encoder, parameters: Any) -> None:
        """Refuses more tokens than there is room for, however short a text is, and what needs beams without them."""
        (document,) = self.encode_request(encoder, [self.trial_input(encoder)], parameters)
        assert isinstance(document, WrittenDocument)
        self.new_tokens(encoder, document, parameters)
        self.asked(parameters).beams(self.default_beams)

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """One of all sub-words in each place."""
        return self.decision.probabilities(np.concatenate(outputs))

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """Each text."""
        return [(TEXT, item["score"]) for item in answer]
