"""Text generation: a decoder goes on with a text (prompts with targets, dialogues)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from agent.encoding import Document, Encoder
from agent.errors import RequestError
from agent.generation.growing_text import GrowingText, WrittenToken
from agent.tasks.base import Join
from agent.tasks.record_fields import refuse_reward
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.writing import conversation
from agent.tasks.writing.conversation import MARKERS, ChatPrompt, Turn, pieces_of, prompt_of, read_turns
from agent.tasks.writing.teacher_forcing import Piece, WrittenDocument, encode_continued
from agent.tasks.writing.writing_parameters import ContinuationParameters
from agent.tasks.writing.written_text import SHAPE, GeneratedText, WritingTask, WrittenText

DEFAULT_NEW_TOKENS = 256


class NamedToken(BaseModel):
    """A token that was written."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(BaseModel):
    """A token of the text that was given."""

    id: int
    text: str
    logprob: float | None = Field(description="None of the first, before which nothing stands.")


class Details(BaseModel):
    """How a text was written, as text-generation-inference tells it."""

    finish_reason: Literal["eos_token", "length", "stop_sequence"]
    generated_tokens: int
    seed: int | None = Field(description="The one that was asked for, where tokens were drawn.")
    prefill: list[PrefillToken] = Field(
        description="Tokens of the text that was given, if decoder_input_details is true."
    )
    tokens: list[NamedToken] = Field(description="Empty where beams were followed.")


class Continuation(GeneratedText):
    """What follows a text."""

    details: Details | None = Field(None, description="If they were asked for.")


class Dialogue(WrittenText):
    """A conversation. `target` is the last turn, which is the assistant's; every turn of it is learned."""

    turns: tuple[Turn, ...]


class TextGeneration(WritingTask):
    """What follows a text, by a decoder alone."""

    architecture: ClassVar[str] = "AutoModelForCausalLM"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "target"}), frozenset({"messages"}))
    record_shape: ClassVar[str] = f"{SHAPE} or {conversation.SHAPE}"
    purpose: ClassVar[str] = "Writes what follows a text."
    streams: ClassVar[bool] = True
    parameters: ClassVar[type[Parameters]] = ContinuationParameters
    answer_item: ClassVar[type[BaseModel]] = Continuation

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

    def goes_on(self, text: str) -> bool:
        """It does, save for a turn of a conversation, which begins anew."""
        return not isinstance(text, ChatPrompt)

    def new_tokens(self, encoder: Encoder, document: WrittenDocument, parameters: Any) -> int:
        """As many as the text leaves room for, 256 if nothing is asked for; raises RequestError beyond it."""
        room = encoder.max_tokens - len(document.given)
        return self.asked(parameters).tokens_within(DEFAULT_NEW_TOKENS, room)

    def answer_written(self, text: str, written: GrowingText, parameters: Any) -> list[dict[str, Any]]:
        """The text, behind the one that was given and with its tokens if so asked."""
        assert isinstance(parameters, ContinuationParameters)
        (answer,) = super().answer_written(text, written, parameters)
        if parameters.return_full_text:
            answer[self.text_key] = text + answer[self.text_key]
        if parameters.details:
            answer["details"] = details_of(written, parameters.drawn_seed)
        return [answer]

    def check_annotation(self, encoder: Encoder, parameters: Any) -> None:
        """Refuses `details` too, for which a text has no place."""
        super().check_annotation(encoder, parameters)
        if parameters.details:
            raise RequestError(
                "parameters.details is true, and an annotated record holds the text alone",
                allowed="false",
                remedy="leave it out, or ask a server",
                field="parameters.details",
            )

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes texts to go on with.

        Raises:
            RequestError: A text leaves no room for what follows.
        """
        places = [f"inputs[{number}]" for number in range(len(texts))]
        return list(encode_continued(encoder, list(map(_asked, texts)), places))


def _asked(text: str) -> list[Piece]:
    """A row of which nothing is written yet."""
    given = [*pieces_of(text.turns), Piece(MARKERS["assistant"])] if isinstance(text, ChatPrompt) else [Piece(text)]
    return [*(piece._replace(written=False) for piece in given), Piece("", written=True, ends=True)]


def _row(example: WrittenText) -> list[Piece]:
    if isinstance(example, Dialogue):
        return pieces_of(example.turns)
    return [Piece(example.text), Piece(example.target, written=True, ends=True)]


def details_of(written: GrowingText, seed: int | None) -> dict[str, Any]:
    """How a text was written, by which seed if any, as text-generation-inference tells it."""
    return {
        "finish_reason": written.finish, "generated_tokens": len(written.numbers), "seed": seed,
        "prefill": [{"id": token.number, "text": text, "logprob": token.log_probability} for token, text in written.name_given()],
        "tokens": [named(token) for token in written.tokens],
    }  # fmt: skip


def named(token: WrittenToken) -> dict[str, Any]:
    """A token as text-generation-inference names it."""
    return {"id": token.number, "text": token.text, "logprob": token.log_probability, "special": token.special}
