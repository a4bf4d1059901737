"""How well texts are written where the right sub-words before each are known: accuracy and perplexity."""

from __future__ import annotations

from collections.abc import Sequence

from agent.tasks.base import Report
from agent.tasks.masked_language.mask_scores import NamedToken, report_tokens


def score_written(predictions: Sequence[Sequence[NamedToken]]) -> Report:
    """Accuracy by sub-words and by whole texts, and the perplexity, whose inverse is a fraction."""
    tokens = [token for prediction in predictions for token in prediction]
    texts = [all(token.right for token in prediction) for prediction in predictions]
    mode = "each sub-word from the right ones before it; nothing is generated"
    return report_tokens(tokens, texts, unit="text", hidden=False, mode=mode)
