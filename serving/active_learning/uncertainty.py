"""How unsure an agent is of its answer to a text: least confidence, margin or entropy of the probabilities behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from agent.encoding import Float32
from agent.errors import BundleError, RequestError
from serving.inference.engine import Engine

Measure = Literal["margin", "entropy", "least_confidence"]
Float64 = npt.NDArray[np.float64]
_OfText = Callable[[Float32], float]

_TEXTS_AT_ONCE = 1_024  # sorted by length together


class Scored(NamedTuple):
    """How unsure an agent is of texts.

    Attributes:
        uncertainty: float64 [texts], 0 to 1; -1 for those that it refuses.
        refused: How many it refuses.
        reason: Why it refuses the first of them; empty if none.
    """

    uncertainty: Float64
    refused: int
    reason: str


def uncertainty(choices: Float32, measure: Measure, *, averaged: bool) -> float:
    """How unsure an answer is, 0 to 1; 0 where it rests on no decision.

    One decision is measured by (Settles, "Active Learning Literature Survey", 2009, section 3.1):

    - `margin`: 1 less the difference between the two likeliest options (Scheffer et al., 2001);
    - `entropy`: Shannon's, divided by its largest value;
    - `least_confidence`: 1 less the probability of the likeliest option.

    An answer of several decisions is as unsure as its least sure one, or where `averaged` says so: entropy is the mean over the
    decisions (the token entropy of Settles and Craven, EMNLP 2008), least confidence 1 less the geometric mean of their
    probabilities (maximum normalised log-probability, Shen et al., arXiv 1707.05928). The margin is never averaged: the second-best
    sequence of tags changes one tag of the best.

    Args:
        choices: Probabilities of options, float32 [decisions, options], at least two options.
        measure: Which of the three.
        averaged: Whether decisions are the tags of a sequence, of which long texts have more.
    """
    if not len(choices):
        return 0.0
    rows = choices.astype(np.float64)
    join: Callable[[Float64], np.float64] = np.mean if averaged else np.max
    if measure == "entropy":
        found = join(-(rows * np.log(np.maximum(rows, 1e-30))).sum(axis=-1)) / np.log(rows.shape[-1])
    elif measure == "least_confidence":
        found = 1 - np.exp(-join(-np.log(np.maximum(rows.max(axis=-1), 1e-30))))
    else:
        two = np.partition(rows, -2, axis=-1)[:, -2:]
        found = 1 - (two[:, 1] - two[:, 0]).min()
    return float(np.clip(found, 0, 1))


def score_texts(
    engine: Engine, texts: Sequence[str], measure: Measure, advance: Callable[[int], None], *, averaged: bool
) -> Scored:
    """Computes how unsure an agent is of each text, on all its sessions.

    Args:
        engine: The agent.
        texts: Its inputs.
        measure: Of uncertainty.
        advance: Called with the number of texts that are done now.
        averaged: As for `uncertainty`.

    Raises:
        BundleError: The agent's graph gives no numbers.
    """

    def of_text(choices: Float32) -> float:
        return uncertainty(choices, measure, averaged=averaged)

    blocks = [texts[first : first + _TEXTS_AT_ONCE] for first in range(0, len(texts), _TEXTS_AT_ONCE)]
    found, reason = list[float](), ""
    with ThreadPoolExecutor(engine.plan.sessions) as sessions:
        for scores, refusal in sessions.map(lambda block: _score_block(engine, block, of_text), blocks):
            found += scores
            reason = reason or refusal
            advance(len(scores))
    values = np.array(found, np.float64)
    return Scored(values, int((values < 0).sum()), reason)


def _score_block(engine: Engine, texts: Sequence[str], of_text: _OfText) -> tuple[list[float], str]:
    """The uncertainty of each text, -1 for those that the agent refuses, and why it refuses the first."""
    try:
        return _scores(engine, texts, of_text), ""
    except RequestError as error:
        if len(texts) == 1:
            return [-1.0], error.what
    half = len(texts) // 2
    (scores, reason), (more, later) = (_score_block(engine, part, of_text) for part in (texts[:half], texts[half:]))
    return scores + more, reason or later


def _scores(engine: Engine, texts: Sequence[str], of_text: _OfText) -> list[float]:
    task, documents = engine.bundle.task, engine.encode(texts)
    found = [
        of_text(task.choices(document, outputs))
        for document, outputs in zip(documents, engine.run(documents), strict=True)
    ]
    if np.isnan(found).any():
        raise BundleError(
            f"the graph of {engine.bundle.path} ({engine.variant.precision}) gives no numbers for a text",
            remedy="choose another precision=..., or compress the agent anew",
        )
    return found
