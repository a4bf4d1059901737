"""How well texts are written where the right sub-words before each are known: accuracy and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agent.tasks.base import Report
from agent.tasks.masked_language.mask_scores import NamedToken


def score_written(predictions: Sequence[Sequence[NamedToken]]) -> Report:
    """Accuracy by sub-words and by whole texts, and the perplexity, whose inverse is a fraction."""
    tokens = [token for prediction in predictions for token in prediction]
    texts = [all(token.right for token in prediction) for prediction in predictions]
    accuracy = sum(token.right for token in tokens) / max(len(tokens), 1)
    text_accuracy = sum(texts) / max(len(texts), 1)
    loss = -sum(token.log_probability for token in tokens) / max(len(tokens), 1)
    metrics = {"accuracy": accuracy, "text_accuracy": text_accuracy, "inverse_perplexity": math.exp(-loss)}
    perplexity = f"{math.exp(loss):,.2f}" if loss < 50 else f"e^{loss:.0f}"
    text = (
        f"{'texts':<22}{len(texts):>12,}\n{'sub-words':<22}{len(tokens):>12,}\n"
        f"{'accuracy':<22}{accuracy:>12.4f}\n{'accuracy, whole texts':<22}{text_accuracy:>12.4f}\n"
        f"{'mean loss':<22}{loss:>12.4f}\n{'perplexity':<22}{perplexity:>12}\n"
    )
    mode = "each sub-word from the right ones before it; nothing is generated"
    return Report(metrics=metrics, primary="accuracy", support=len(tokens), text=text, mode=mode)
