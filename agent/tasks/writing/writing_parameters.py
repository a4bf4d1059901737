"""What a request for a written text may ask for, in the names of Hugging Face's inference API."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, Strict, model_validator

from agent.errors import RequestError
from agent.tasks.requests.request_parameters import WHOLE, Parameters

MOST_BEAMS = 16
Seed = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1), WHOLE]
"""Of what is drawn; any number of 64 bits, as OpenAI's API takes it."""
_Stop = Annotated[str, Strict(), Field(min_length=1, max_length=200)]


class GenerationParameters(Parameters):
    """How a text is written."""

    stride: None = Field(None, description="Has no meaning here: a text is read whole.")
    max_new_tokens: Annotated[int, Strict(), Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        None,
        description="Tokens that are written at most, the one that ends a text included; the agent's own by default.",
    )
    num_beams: Annotated[int, Strict(), Field(ge=1, le=MOST_BEAMS), WHOLE] | None = Field(
        None, description="Texts that are followed at once; 1 takes the likeliest token at each step."
    )
    length_penalty: Annotated[float, Strict(), Field(ge=0, le=10)] | None = Field(
        None,
        description="Of beams: the power of a text's length by which its log probability is divided; 1 by default, more prefers longer texts.",
    )
    do_sample: Annotated[bool, Strict()] | None = Field(
        None, description="Whether tokens are drawn; by default if temperature, top_k or top_p is given."
    )
    temperature: Annotated[float, Strict(), Field(ge=0.01, le=100)] | None = Field(
        None, description="Divides logits before a token is drawn."
    )
    top_k: Annotated[int, Strict(), Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        None, description="Tokens are drawn of so many of the likeliest; of all by default."
    )
    top_p: Annotated[float, Strict(), Field(ge=0.001, le=1)] | None = Field(
        None, description="Tokens are drawn of the likeliest that have this probability together."
    )
    seed: Seed | None = Field(
        None,
        description="Has the same text drawn whenever the request is repeated; without effect where nothing is drawn.",
    )
    repetition_penalty: Annotated[float, Strict(), Field(ge=1, le=10)] | None = Field(
        None, description="Above 1, makes tokens less likely that were written already."
    )
    stop: Annotated[list[_Stop], Field(max_length=8)] | None = Field(
        None, description="Strings before which a text is cut off; not more than 8."
    )

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample or any(value is not None for value in (self.temperature, self.top_k, self.top_p))

    @property
    def drawn_seed(self) -> int | None:
        """The seed, where something is drawn."""
        return self.seed if self.draws and self.top_k != 1 else None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.do_sample is False and self.draws:
            raise ValueError("temperature, top_k and top_p have a meaning only where do_sample is not false")
        if self.draws and (self.num_beams or 1) > 1:
            raise ValueError("num_beams above 1 follows the likeliest texts, and nothing is drawn then")
        if self.length_penalty is not None and (self.draws or self.num_beams == 1):
            raise ValueError("length_penalty has a meaning only with beams")
        return self

    def beams(self, default: int) -> int:
        """Texts that are followed at once.

        Args:
            default: Where nothing is asked for, and nothing is drawn.

        Raises:
            RequestError: There is one alone, and a penalty for its length.
        """
        found = self.num_beams or (1 if self.draws else default)
        if self.length_penalty is not None and found == 1:
            raise RequestError(
                "parameters.length_penalty has a meaning only with beams",
                allowed=f"with num_beams 2 to {MOST_BEAMS}",
                remedy="set num_beams, or leave it out",
                field="parameters.length_penalty",
            )
        return found

    def tokens_within(self, default: int, most: int) -> int:
        """Tokens to write at most.

        Args:
            default: Where nothing is asked for.
            most: For which the model has room.

        Raises:
            RequestError: More are asked for.
        """
        if (self.max_new_tokens or 0) > most:
            field = "parameters.max_new_tokens"
            raise RequestError(
                f"{field} is {self.max_new_tokens}, more than the model has room for",
                allowed=f"at most {most:,} for this text",
                remedy="ask for fewer, or send a shorter text",
                field=field,
            )
        return self.max_new_tokens or min(default, most)


class SequenceParameters(GenerationParameters):
    """Parameters of a request for another text."""

    generate_parameters: GenerationParameters | None = Field(
        None, description="The same parameters as InferenceClient sends them, in an object of their own."
    )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.generate_parameters is not None and self.model_fields_set != {"generate_parameters"}:
            raise ValueError("the same parameters stand in generate_parameters and beside it")
        return self

    @property
    def asked(self) -> GenerationParameters:
        """What is asked for, wherever it stands."""
        return self.generate_parameters or self


class ContinuationParameters(GenerationParameters):
    """Parameters of a request for what follows a text."""

    return_full_text: Annotated[bool, Strict()] | None = Field(
        None, description="Whether the answer begins with the text that was given."
    )
    details: Annotated[bool, Strict()] | None = Field(
        None, description="Whether the answer names its tokens, with their log probabilities, and why it ended."
    )
    decoder_input_details: Annotated[bool, Strict()] | None = Field(
        None, description="Whether details name the tokens of the given text as well (`prefill`); not in a stream."
    )

    @model_validator(mode="after")
    def _within_details(self) -> Self:
        if self.decoder_input_details and not self.details:
            raise ValueError("decoder_input_details are a part of details, which is not true")
        return self
