"""What an explanation is asked with and what it says, as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, Strict, create_model

from agent.tasks import BaseTask, Parameters
from agent.tasks.requests.request_parameters import WHOLE
from serving.explanation.hidden_words import Replacement
from serving.scheduling.limits import LEAST_INTERVENTIONS, ExplainLimits


class Place(BaseModel):
    """A word, or a run of neighbouring words that were hidden together. `text[start:end]` is `word`."""

    word: str
    start: int
    end: int
    field: str | None = Field(None, description="The text in which it stands, where an input has several.")


class Cause(Place):
    """What a word does to a decision."""

    effect: float = Field(
        description="Change of the decision's probability that the word brings, averaged over the orders in which words can be shown."
    )
    low: float = Field(description="Lower end of the 95% interval of `effect`, as far as sampling goes.")
    high: float = Field(description="Upper end.")
    alone: float = Field(description="By how much the probability falls when this word alone is hidden.")


class FlipFound(BaseModel):
    """The smallest set of words found that, hidden, lets the agent decide otherwise."""

    words: list[Place]
    inputs: Any = Field(
        description="The input with these words hidden; sent as `inputs` of a prediction it gets the other answer."
    )
    probability: float = Field(description="Of the decision then.")


class ExplainedDecision(BaseModel):
    """One decision and its causes."""

    label: str
    word: str | None = Field(None, description="What the label stands for, where it is a part of the text.")
    start: int | None = None
    end: int | None = None
    probability: float = Field(description="Of the label; over an entity the mean of its pieces.")
    holds: bool = Field(description="Whether the agent's answer says so.")
    baseline: float = Field(description="The probability with every word hidden.")
    comprehensiveness: float = Field(
        description="By how much the probability falls without the most important words (arXiv 1911.03429)."
    )
    sufficiency: float = Field(
        description="By how much it falls with the most important words alone (arXiv 1911.03429)."
    )
    causes: list[Cause] = Field(description="Every word, the largest effects first.")
    flip: FlipFound | None = Field(description="null where no set that decides otherwise was found.")


class Explanation(BaseModel):
    """Why an agent decided as it did about one text."""

    bundle: str = Field(description="Digest of the agent's bundle.")
    replacement: str = Field(description="What stands for a hidden word; empty where it is removed.")
    words: int = Field(description="Words and signs of the text.")
    words_at_once: int = Field(description="How many neighbouring words are hidden together, because the text is long.")
    interventions: int = Field(description="Texts with hidden words that were computed.")
    exact: bool = Field(description="Whether effects come from all sets of words, so that nothing was sampled.")
    seed: int
    decisions: list[ExplainedDecision]


def explain_parameters(task: BaseTask[Any], limits: ExplainLimits) -> type[Parameters]:
    """The parameters of an explanation: those of a prediction of the task, and how to explain it."""
    most = max(LEAST_INTERVENTIONS, limits.max_interventions)
    names: Any = {"enum": [*task.labels]} if task.labels and not task.takes_single else {"minLength": 1}
    return create_model(
        "ExplainParameters",
        __base__=task.parameters,
        __doc__="What is explained, and how.",
        labels=(
            tuple[str, ...],
            Field(
                (),
                description="Labels whose decisions are explained; by default those of the answer, of a classifier the best one (or `top_k`).",
                json_schema_extra={"items": {"type": "string", **names}},
            ),
        ),
        start=(
            Annotated[int, Strict(), Field(ge=0), WHOLE] | None,
            Field(None, description="Only the entity that begins at this character."),
        ),
        replacement=(
            Replacement,
            Field("mask", description="What hides a word: the tokenizer's mask token, or nothing in its place."),
        ),
        interventions=(
            Annotated[int, Strict(), Field(ge=LEAST_INTERVENTIONS, le=most), WHOLE] | None,
            Field(
                None, description="Texts with hidden words to compute at most; by default as many as the server allows."
            ),
        ),
        seed=(
            Annotated[int, Strict(), Field(ge=0, le=2**31 - 1), WHOLE],
            Field(0, description="Draws the orders of words; the same seed gives the same explanation."),
        ),
    )
