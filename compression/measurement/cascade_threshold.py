"""Chooses how sure the first pass of a cascade has to be of a text, by scores on the dev split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.evaluation import Forward, lowest_probability, run_each
from agent.tasks import BaseTask
from compression.state.pipeline_state import PipelineState

_STEPS = 50  # the share of texts that go on is found to a fiftieth


@dataclass(frozen=True)
class FirstAnswers:
    """What the first pass says of labelled examples.

    Attributes:
        predictions: One for each example.
        confidences: How sure it is of each, 0 to 1.
        tokens: Of each.
    """

    predictions: list[Any]
    confidences: list[float]
    tokens: list[int]


@dataclass(frozen=True)
class Threshold:
    """A chosen threshold.

    Attributes:
        value: Texts of which the first pass is surer are answered by it, 0 to 1.
        score_kept: Of the score of the second pass alone.
        texts_on, tokens_on: Shares of texts and of their tokens that go on to the second pass.
    """

    value: float
    score_kept: float
    texts_on: float
    tokens_on: float


def first_answers(
    state: PipelineState, examples: Sequence[Any], forward: Forward, progress: Callable[[int, int], None]
) -> FirstAnswers:
    """Runs the first pass over examples."""
    task: BaseTask[Any] = state.bundle.task
    documents = task.encode(state.encoder, examples)

    def judged(number: int, outputs: list[Any]) -> tuple[Any, float]:
        document = documents[number]
        return task.predict(document, outputs), lowest_probability(task, document, outputs)

    found = run_each(documents, forward, judged, pad_id=state.encoder.pad_id, progress=progress)
    sure = np.nan_to_num([confidence for _, confidence in found], nan=0.0).tolist()
    return FirstAnswers([one for one, _ in found], sure, [document.num_tokens for document in documents])


def choose_threshold(
    score: Callable[[list[Any]], float], first: FirstAnswers, second: Sequence[Any], *, score_kept: float
) -> Threshold:
    """The threshold by which the fewest texts go on, of those up to which no more loses too much.

    Args:
        score: Of a prediction for each example.
        first: What the first pass says.
        second: What the second pass predicts for each example.
        score_kept: The part of the second pass's score that the two together have to keep.
    """
    whole, confidences = score(list(second)), np.array(first.confidences)
    ordered, count = np.sort(confidences), len(confidences)
    best = Threshold(1.0, 1.0, 1.0, 1.0)
    for share in np.linspace(1, 0, _STEPS + 1):
        num_on = round(share * count)
        value = float(ordered[num_on - 1]) if num_on else 0.0
        goes_on = confidences <= value
        mixed = [two if on else one for one, two, on in zip(first.predictions, second, goes_on, strict=True)]
        kept = score(mixed) / whole if whole else 1.0
        if kept < score_kept:
            break
        tokens = np.array(first.tokens)
        best = Threshold(value, kept, float(goes_on.mean()), float((tokens * goes_on).sum() / tokens.sum()))
    return best
