"""How well hidden sub-words were named: accuracy and pseudo-perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from agent.tasks.base import Report


@dataclass(frozen=True)
class NamedToken:
    """A hidden sub-word and what the model named in its place.

    Attributes:
        gold, said: As they are written.
        right: Whether they are the same sub-word.
        word: Number of the word that it belongs to.
        log_probability: Of the hidden one.
    """

    gold: str
    said: str
    right: bool
    word: int
    log_probability: float = field(compare=False)


def score_tokens(predictions: Sequence[Sequence[NamedToken]]) -> Report:
    """Accuracy by sub-words and by whole words, and the pseudo-perplexity, whose inverse is a fraction."""
    tokens = [token for prediction in predictions for token in prediction]
    words = [
        all(token.right for token in word)
        for prediction in predictions
        for _, word in groupby(prediction, key=lambda token: token.word)
    ]
    accuracy = sum(token.right for token in tokens) / max(len(tokens), 1)
    word_accuracy = sum(words) / max(len(words), 1)
    loss = -sum(token.log_probability for token in tokens) / max(len(tokens), 1)
    metrics = {"accuracy": accuracy, "word_accuracy": word_accuracy, "inverse_perplexity": math.exp(-loss)}
    perplexity = f"{math.exp(loss):,.2f}" if loss < 50 else f"e^{loss:.0f}"
    text = (
        f"{'hidden words':<22}{len(words):>12,}\n{'hidden sub-words':<22}{len(tokens):>12,}\n"
        f"{'accuracy':<22}{accuracy:>12.4f}\n{'accuracy, whole words':<22}{word_accuracy:>12.4f}\n"
        f"{'mean loss':<22}{loss:>12.4f}\n{'pseudo-perplexity':<22}{perplexity:>12}\n"
    )
    mode = "hidden words, always the same ones of a text, all masked"
    return Report(metrics=metrics, primary="accuracy", support=len(tokens), text=text, mode=mode)
