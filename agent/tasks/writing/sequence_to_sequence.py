"""Sequence to sequence: a text from a text by an encoder and a decoder (translation, summaries)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from agent.encoding import Document, Encoder
from agent.tasks.base import Report
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.writing.generated_scores import Metric, add_generated
from agent.tasks.writing.teacher_forcing import WrittenDocument, encode_decoded
from agent.tasks.writing.writing_parameters import GenerationParameters, SequenceParameters
from agent.tasks.writing.written_text import SCORE, SHAPE, WritingTask, WrittenText

_KEYS = {"translation": "translation_text", "summarization": "summary_text"}


class WrittenSequence(BaseModel):
    """A text that was written for another, by the name that Hugging Face's clients read."""

    translation_text: str | None = Field(None, description="Of agents that translate.")
    summary_text: str | None = Field(None, description="Of agents that summarise.")
    score: float = SCORE


class SequenceToSequence(WritingTask):
    """A new text for each text, by an encoder that reads it and a decoder that writes."""

    architecture: ClassVar[str] = "AutoModelForSeq2SeqLM"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "target"}),)
    record_shape: ClassVar[str] = SHAPE
    purpose: ClassVar[str] = "Writes another text for a text."
    parameters: ClassVar[type[Parameters]] = SequenceParameters
    answer_item: ClassVar[type[BaseModel]] = WrittenSequence

    kind: Literal["sequence_to_sequence"] = "sequence_to_sequence"
    pipeline_tag: Literal["translation", "summarization"] = Field(
        "translation",
        description="what a server's answers are called: translation_text or summary_text, as Hugging Face's clients of that task read them",
    )
    metric: Metric = Field(
        "bleu",
        description="what generated texts are scored by: bleu (with chrF; translations) or rouge (summaries in English)",
    )
    num_beams: int = Field(
        4,
        ge=1,
        description="texts that are followed at once when one is generated; 1 takes the likeliest sub-word each time",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, description="sub-words that a generated text has at most; default: the model's length"
    )
    generated_texts: int = Field(
        200, ge=0,
        description="texts of dev that are generated and scored after each epoch; test is generated in full. 0 generates none: agents are then compared by right prefixes",
    )  # fmt: skip

    @property
    def text_key(self) -> str:
        """What Hugging Face's clients read."""
        return _KEYS[self.pipeline_tag]

    @property
    def default_beams(self) -> int:
        """As dev and test are generated."""
        return self.num_beams

    def asked(self, parameters: Any) -> GenerationParameters:
        """How a request wants its texts written."""
        assert isinstance(parameters, SequenceParameters)
        return parameters.asked

    def new_tokens(self, encoder: Encoder, document: WrittenDocument, parameters: Any) -> int:
        """Up to the model's length, whatever is given; raises RequestError beyond it."""
        return self.asked(parameters).tokens_within(self.max_new_tokens or encoder.max_tokens, encoder.max_tokens)

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """One list of all texts, as pipelines of Hugging Face give it."""
        return [item for answer in answers for item in answer]

    def score_generated(self, report: Report, examples: Sequence[WrittenText], texts: Sequence[str]) -> Report:
        """A report on right prefixes with the scores of generated texts, by which agents are compared then."""
        return add_generated(report, [example.target for example in examples], texts, self.metric)

    def written(self, encoder: Encoder, examples: Sequence[WrittenText]) -> list[WrittenDocument]:
        """Encodes texts and targets, each as the tokenizer frames a text."""
        texts, targets = [example.text for example in examples], [example.target for example in examples]
        return encode_decoded(encoder, texts, targets, [example.where for example in examples])

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes texts of which nothing is written yet.

        Raises:
            RequestError: A text is longer than the model.
        """
        return list(encode_decoded(encoder, texts, [""] * len(texts), [f"inputs[{n}]" for n in range(len(texts))]))
