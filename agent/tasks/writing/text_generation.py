"""Text generation: a decoder goes on with a text (prompts with targets, dialogues)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from agent.encoding import Document, Encoder
from agent.tasks.base import Join
from agent.tasks.record_fields import refuse_reward
from agent.tasks.writing import conversation
from agent.tasks.writing.conversation import Turn, pieces_of, prompt_of, read_turns
from agent.tasks.writing.teacher_forcing import Piece, WrittenDocument, encode_continued
from agent.tasks.writing.written_text import SHAPE, WritingTask, WrittenText


class Dialogue(WrittenText):
    """A conversation. `target` is the last turn, which is the assistant's; every turn of it is learned."""

    turns: tuple[Turn, ...]


class TextGeneration(WritingTask):
    """What follows a text, by a decoder alone."""

    architecture: ClassVar[str] = "AutoModelForCausalLM"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "target"}), frozenset({"messages"}))
    record_shape: ClassVar[str] = f"{SHAPE} or {conversation.SHAPE}"
    purpose: ClassVar[str] = "Writes what follows a text."

    kind: Literal["text_generation"] = "text_generation"

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> WrittenText:
        """Reads `{"text", "target"}` or `{"messages"}`."""
        if "messages" not in record:
            return super().read_record(record, where)
        refuse_reward(record, where, self.kind)
        turns = read_turns(record["messages"], where)
        return Dialogue(where=where, text=prompt_of(turns), target=turns[-1].content, turns=turns)

    def written(self, encoder: Encoder, examples: Sequence[WrittenText]) -> list[WrittenDocument]:
        """Encodes each example as one row."""
        return encode_continued(encoder, list(map(_row, examples)), [example.where for example in examples])

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes texts to go on with.

        Raises:
            RequestError: A text leaves no room for what follows.
        """
        places = [f"inputs[{number}]" for number in range(len(texts))]
        return list(
            encode_continued(encoder, [[Piece(text), Piece("", written=True, ends=True)] for text in texts], places)
        )


def _row(example: WrittenText) -> list[Piece]:
    if isinstance(example, Dialogue):
        return pieces_of(example.turns)
    return [Piece(example.text), Piece(example.target, written=True, ends=True)]
