"""Samples the answer of a classifier instead of always taking the best label, with the true probability of what was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from agent.config.base import Config

Float64 = npt.NDArray[np.float64]
Chosen = Literal["greedy", "epsilon", "temperature"]


class ExploreConfig(Config):
    """How answers are sampled."""

    epsilon: float = Field(
        0, ge=0, le=1, description="part of the answers that any label is drawn for, all alike; 0 takes the best label"
    )
    temperature: float = Field(
        0,
        ge=0,
        le=100,
        description="draws labels by their probabilities to the power of 1/temperature: 1 as they are; 0 takes the best label",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.epsilon and self.temperature:
            raise ValueError("epsilon and temperature are two ways to explore; set one of them to 0")
        return self

    @property
    def kind(self) -> Chosen:
        """How an answer is chosen."""
        return "epsilon" if self.epsilon else "temperature" if self.temperature else "greedy"

    def propensities(self, scores: npt.ArrayLike) -> Float64:
        """The probabilities with which labels are answered.

        Args:
            scores: Their probabilities by the model, float [..., labels].
        """
        given = np.asarray(scores, dtype=np.float64)
        if self.temperature:
            with np.errstate(divide="ignore"):  # a label without any probability keeps none
                powers = np.log(given) / self.temperature
            raised = np.exp(powers - powers.max(axis=-1, keepdims=True))
            return np.asarray(raised / raised.sum(axis=-1, keepdims=True), dtype=np.float64)
        best = np.zeros_like(given)
        np.put_along_axis(best, given.argmax(axis=-1, keepdims=True), 1.0, axis=-1)
        return np.asarray((1 - self.epsilon) * best + self.epsilon / given.shape[-1], dtype=np.float64)


class SampledAnswer(NamedTuple):
    """An answer whose first item was drawn, and the probability of that."""

    answer: list[dict[str, Any]]
    propensity: float
    chosen: Chosen


def sample(
    answer: Sequence[dict[str, Any]], explore: ExploreConfig, draw: float, *, top_k: int | None
) -> SampledAnswer:
    """Draws the label that is answered, and puts it first; the others follow in the order of their scores.

    Args:
        answer: All labels with their scores, best first.
        explore: How to draw.
        draw: Uniformly distributed between 0 and 1.
        top_k: How many labels to answer; None answers all.
    """
    propensities = explore.propensities([item["score"] for item in answer])
    place = int(np.searchsorted(np.cumsum(propensities), draw, side="right"))
    place = min(place, int(np.flatnonzero(propensities)[-1]))  # the sum may end a little below 1
    ranked = [answer[place], *answer[:place], *answer[place + 1 :]]
    return SampledAnswer(ranked[:top_k], float(propensities[place]), explore.kind)
