"""Limits on a request, and on what a replica takes on at once."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator

from agent.config.base import Config
from agent.errors import RequestError

LEAST_INTERVENTIONS = 16  # fewer say nothing


class ExplainLimits(Config):
    """What explanations may cost."""

    max_interventions: int = Field(
        500,
        ge=0,
        description="texts with hidden words that are computed for one explanation, each counted as a text of the key's limit; "
        f"at least {LEAST_INTERVENTIONS}, or 0, which closes POST /explain",
    )
    max_tokens: int = Field(
        250_000, ge=1, description="tokens of all these texts together; a long text gets fewer of them"
    )
    max_concurrent: int = Field(
        2, ge=1, description="explanations that a replica computes at once; beyond it they get 429"
    )

    @field_validator("max_interventions")
    @classmethod
    def _enough(cls, number: int) -> int:
        if 0 < number < LEAST_INTERVENTIONS:
            raise ValueError(
                f"{number} interventions explain nothing; allowed is 0 or a number from {LEAST_INTERVENTIONS}"
            )
        return number


class LimitsConfig(Config):
    """What a request may hold, and what a replica takes on at once."""

    max_texts: int = Field(1_000, ge=1, description="texts in a request")
    max_characters: int = Field(250_000, ge=1, description="characters of all texts of a request together")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1, description="bytes of a request's body")
    max_stream_bytes: int = Field(
        32 * 1024 * 1024,
        ge=1,
        description="bytes of the body of a stream (application/x-ndjson), of any number of texts",
    )
    max_streams: int = Field(4, ge=1, description="streams that a replica answers at once; beyond it they get 429")
    max_queued_tokens: int = Field(
        65_536, ge=1, description="tokens that may wait in a replica; beyond it requests get 429 at once"
    )
    max_queued_s: float = Field(
        1.0,
        gt=0,
        description="seconds that a request may have to wait for those served before it, by the measured rate; "
        "beyond it, or while another has waited for longer, requests get 429 at once, so that accepted ones keep their latency; "
        "not while no more than a batch waits",
    )
    max_pairs: int = Field(
        1_000,
        ge=1,
        description="pairs of entities that are asked about for one request, each counted as a text of the key's limit (agents with entities)",
    )
    max_concurrent_requests: int = Field(
        128, ge=1, description="requests in flight in a replica; beyond it they get 429 at once"
    )
    max_body_s: float = Field(10.0, gt=0, description="seconds in which a request's body has to arrive")
    explain: ExplainLimits = Field(default_factory=ExplainLimits)

    def check(self, texts: Sequence[str], num_characters: int) -> None:
        """Refuses a request with too many texts or characters.

        Raises:
            RequestError: 413, names the limit.
        """
        if len(texts) > self.max_texts:
            raise _too_many("texts", len(texts), self.max_texts)
        if num_characters > self.max_characters:
            raise _too_many("characters", num_characters, self.max_characters)


def _too_many(what: str, given: int, allowed: int) -> RequestError:
    return RequestError(
        f"inputs holds {given} {what}",
        allowed=f"at most {allowed} {what} in one request",
        remedy="send the texts in several requests",
        status=413,
        field="inputs",
    )
