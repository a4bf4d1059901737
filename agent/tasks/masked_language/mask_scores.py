"""Sub-words that a model named beside the right ones, and how well hidden ones were named: accuracy and pseudo-perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from agent.encoding import Float32
from agent.tasks.base import Report
from agent.tasks.pairs import Pair
from agent.windows.token_vocabulary import Vocabulary


@dataclass(frozen=True)
class NamedToken:
    """The right sub-word in a place and what the model named there.

    Attributes:
        gold, said: As they are written.
        right: Whether they are the same sub-word.
        word: Number of the word, or of the text, that it belongs to.
        log_probability: Of the right one.
    """

    gold: str
    said: str
    right: bool
    word: int
    log_probability: float = field(compare=False)


def name_token(vocabulary: Vocabulary, gold: int, word: int, logits: Float32) -> NamedToken:
    """The likeliest sub-word beside the right one, by logits of the whole vocabulary, float32 [sub-words or more, where a model has them]."""
    said, highest = int(logits[: vocabulary.size].argmax()), float(logits.max())
    log_probability = float(logits[gold]) - highest - float(np.log(np.exp(logits - highest).sum()))
    return NamedToken(vocabulary.written(gold), vocabulary.written(said), said == gold, word, log_probability)


def pair_tokens(prediction: Sequence[NamedToken], item: str) -> list[Pair]:
    """Each right sub-word beside the one named in its place, as items of one label."""
    return [
        Pair(
            outcome="right" if token.right else "confused", gold=item, predicted=item if token.right else f"another {item}",
            gold_text=token.gold, predicted_text=token.said,
        )
        for token in prediction
    ]  # fmt: skip


def score_tokens(predictions: Sequence[Sequence[NamedToken]]) -> Report:
    """Accuracy by sub-words and by whole words, and the pseudo-perplexity, whose inverse is a fraction."""
    tokens = [token for prediction in predictions for token in prediction]
    words = [
        all(token.right for token in word)
        for prediction in predictions
        for _, word in groupby(prediction, key=lambda token: token.word)
    ]
    mode = "hidden words, always the same ones of a text, all masked"
    return report_tokens(tokens, words, unit="word", hidden=True, mode=mode)


def report_tokens(
    tokens: Sequence[NamedToken], wholes: Sequence[bool], *, unit: str, hidden: bool, mode: str
) -> Report:
    """The scores of named sub-words.

    Args:
        tokens: All of them.
        wholes: Of each larger unit, whether all of its sub-words are right.
        unit: What people call one of these.
        hidden: Whether what stands behind a sub-word was known too: its perplexity is none of texts then.
        mode: How they were named.
    """
    accuracy = sum(token.right for token in tokens) / max(len(tokens), 1)
    whole_accuracy = sum(wholes) / max(len(wholes), 1)
    loss = -sum(token.log_probability for token in tokens) / max(len(tokens), 1)
    metrics = {"accuracy": accuracy, f"{unit}_accuracy": whole_accuracy, "inverse_perplexity": math.exp(-loss)}
    which, perplexity = ("hidden ", "pseudo-perplexity") if hidden else ("", "perplexity")
    told = f"{math.exp(loss):,.2f}" if loss < 50 else f"e^{loss:.0f}"
    text = (
        f"{f'{which}{unit}s':<22}{len(wholes):>12,}\n{f'{which}sub-words':<22}{len(tokens):>12,}\n"
        f"{'accuracy':<22}{accuracy:>12.4f}\n{f'accuracy, whole {unit}s':<22}{whole_accuracy:>12.4f}\n"
        f"{'mean loss':<22}{loss:>12.4f}\n{perplexity:<22}{told:>12}\n"
    )
    return Report(metrics=metrics, primary="accuracy", support=len(tokens), text=text, mode=mode)
