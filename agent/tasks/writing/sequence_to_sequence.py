"""Sequence to sequence: a text from a text by an encoder and a decoder (translation, summaries)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from agent.encoding import Document, Encoder
from agent.tasks.base import Report
from agent.tasks.writing.generated_scores import Metric, add_generated
from agent.tasks.writing.teacher_forcing import WrittenDocument, encode_decoded
from agent.tasks.writing.written_text import SHAPE, WritingTask, WrittenText


class SequenceToSequence(WritingTask):
    """A new text for each text, by an encoder that reads it and a decoder that writes."""

    architecture: ClassVar[str] = "AutoModelForSeq2SeqLM"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "target"}),)
    record_shape: ClassVar[str] = SHAPE
    purpose: ClassVar[str] = "Writes another text for a text."

    kind: Literal["sequence_to_sequence"] = "sequence_to_sequence"
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
