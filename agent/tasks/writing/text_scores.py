"""How well texts are written where the right sub-words before each are known: accuracy and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agent.encoding import Float32
from agent.tasks.base import Report
from agent.tasks.masked_language.mask_scores import NamedToken, report_tokens


def score_written(predictions: Sequence[Sequence[NamedToken]]) -> Report:
    """Accuracy by sub-words and by whole texts, and the perplexity, whose inverse is a fraction."""
    tokens = [token for prediction in predictions for token in prediction]
    texts = [all(token.right for token in prediction) for prediction in predictions]
    mode = "each sub-word from the right ones before it; nothing is generated"
    return report_tokens(tokens, texts, unit="text", hidden=False, mode=mode)


def score_probabilities(texts: Sequence[Float32]) -> Report:
    """The perplexity alone, where a model tells no more than the probabilities of the right sub-words.

    Args:
        texts: Of each the natural logarithms of the probabilities of its sub-words after the right ones: float32 [written tokens].
    """
    tokens = np.concatenate(texts).astype(np.float64)
    loss = -float(tokens.mean())
    told = f"{math.exp(loss):,.2f}" if loss < 50 else f"e^{loss:.0f}"
    text = f"{'texts':<22}{len(texts):>12,}\n{'sub-words':<22}{len(tokens):>12,}\n{'mean loss':<22}{loss:>12.4f}\n{'perplexity':<22}{told:>12}\n"
    mode = "the right sub-words after the right ones before them; nothing is generated"
    return Report(
        metrics={"inverse_perplexity": math.exp(-loss)},
        primary="inverse_perplexity",
        support=len(tokens),
        text=text,
        mode=mode,
    )
