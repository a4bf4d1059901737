"""Sequence to sequence: a text from a text by an encoder and a decoder (translation, summaries)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from agent.encoding import Document, Encoder
from agent.tasks.writing.teacher_forcing import WrittenDocument, encode_decoded
from agent.tasks.writing.written_text import SHAPE, WritingTask, WrittenText


class SequenceToSequence(WritingTask):
    """A new text for each text, by an encoder that reads it and a decoder that writes."""

    architecture: ClassVar[str] = "AutoModelForSeq2SeqLM"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "target"}),)
    record_shape: ClassVar[str] = SHAPE
    purpose: ClassVar[str] = "Writes another text for a text."

    kind: Literal["sequence_to_sequence"] = "sequence_to_sequence"

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
