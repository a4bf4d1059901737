"""A model of rewards on what the judged agent itself thinks of each answer: ridge regression, predicted out of fold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_RIDGE = 1.0
_FLOOR = 1e-6  # below it probabilities look alike to the model


class ModelledRewards(NamedTuple):
    """Expected rewards, float64 [decisions]: of the answer that was given, and of the judged policy's."""

    logged: Float64
    target: Float64


def fit_rewards(
    probabilities: Float64, policy: Float64, actions: Int64, rewards: Float64, *, folds: int = 5
) -> ModelledRewards:
    """Expects rewards of decisions from all others but those of the same fold, so that none is judged by what it taught.

    Args:
        probabilities: Of the labels by the judged agent's model, [decisions, labels].
        policy: With which the judged policy answers them, [decisions, labels].
        actions: The label that was answered, [decisions]; -1 where the judged agent does not know it.
        rewards: What was earned, 0 to 1, [decisions].
        folds: How many; decisions are dealt out in turns.
    """
    number = len(rewards)
    rows = _features(probabilities, np.maximum(actions, 0)[:, None])[:, 0] * (actions >= 0)[:, None]
    logged, target = np.zeros(number), np.zeros(number)
    turns = np.arange(number) % min(folds, number)
    every_label = np.arange(probabilities.shape[1])
    for turn in range(min(folds, number)):
        others, own = turns != turn, turns == turn
        coefficients = _ridge(rows[others], rewards[others])
        logged[own] = np.clip(rows[own] @ coefficients, 0, 1)
        expected = np.clip(_features(probabilities[own], every_label[None]) @ coefficients, 0, 1)
        target[own] = (policy[own] * expected).sum(axis=1)
    return ModelledRewards(logged, target)


def _features(probabilities: Float64, labels: Int64) -> Float64:
    """What the agent thinks of some labels of each text, and how sure it is of the text: float64 [decisions, labels, features].

    Args:
        probabilities: Of all labels, [decisions, all labels].
        labels: Indices of those that are meant, [decisions or 1, labels].
    """
    given = np.take_along_axis(probabilities, np.broadcast_to(labels, (len(probabilities), labels.shape[1])), axis=1)
    best = given == probabilities.max(axis=1, keepdims=True)
    entropy = np.broadcast_to((probabilities * _surprise(probabilities)).sum(axis=1, keepdims=True), given.shape)
    return np.stack(
        [np.ones_like(given), given, _surprise(given), best, best * given, entropy], axis=2, dtype=np.float64
    )


def _surprise(probabilities: Float64) -> Float64:
    """0 for what is certain, 1 for what never happens."""
    return np.asarray(np.log(np.maximum(probabilities, _FLOOR)) / np.log(_FLOOR), dtype=np.float64)


def _ridge(rows: Float64, rewards: Float64) -> Float64:
    penalty = _RIDGE * np.eye(rows.shape[1])
    penalty[0, 0] = 1e-9  # the constant is free
    return np.asarray(np.linalg.solve(rows.T @ rows + penalty, rows.T @ rewards), dtype=np.float64)
