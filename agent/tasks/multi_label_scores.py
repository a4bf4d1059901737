"""Scores sets of labels, and chooses for each label the probability from which on a text has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.encoding import Float32, Int64
from agent.tasks.base import Report

FEWEST_EXAMPLES = 5  # texts with a label by which a threshold of its own is chosen; rarer labels share one
Float64 = NDArray[np.float64]

CUTS: Float64 = np.round(
    np.arange(1, 100) / 100, 2
)  # finer ones would part the outputs of a model that has learned next to nothing


def choose_thresholds(gold: Int64, scores: Float32) -> tuple[float, ...]:
    """The threshold with the best F1 for each label; rare labels share the best common one.

    Args:
        gold: int64 [examples, labels], 1 where an example has a label.
        scores: float32 [examples, labels], probabilities.
    """
    common = best_threshold(gold.ravel(), scores.ravel())
    counts = gold.sum(axis=0)
    return tuple(
        best_threshold(gold[:, label], scores[:, label]) if counts[label] >= FEWEST_EXAMPLES else common
        for label in range(gold.shape[1])
    )


def best_threshold(gold: Int64, scores: Float32) -> float:
    """Of the hundredths between 0 and 1 the one with the highest F1: the middle of the longest run of equals, which is what a
    compressed model is least likely to cross; a half where there is no gold.

    Args:
        gold: int64 [items], 1 or 0.
        scores: float32 [items].
    """
    if not gold.any():
        return 0.5
    said, right = (len(part) - np.searchsorted(np.sort(part), CUTS) for part in (scores, scores[gold == 1]))
    return middle_of_best(2 * right / (said + gold.sum()))


def middle_of_best(scores: Float64) -> float:
    """The cut with the highest score, float64 [cuts]: the middle of the longest run of equals."""
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=len)
    return float(CUTS[longest[len(longest) // 2]])


def score_labels(labels: Sequence[str], gold: Int64, scores: Float32, thresholds: Float64) -> Report:
    """Compares sets of labels.

    Args:
        labels: Of the task.
        gold: int64 [examples, labels], 1 where an example has a label.
        scores: float32 [examples, labels], probabilities.
        thresholds: float64 [labels].
    """
    from sklearn.metrics import average_precision_score, classification_report, f1_score

    said = (scores >= thresholds).astype(np.int64)
    options = {"target_names": list(labels), "zero_division": 0}
    table = classification_report(gold, said, output_dict=True, labels=range(len(labels)), **options)
    known = np.flatnonzero(gold.any(axis=0))
    precision = average_precision_score(gold[:, known], scores[:, known], average="macro") if len(known) else 0.0
    micro = table["micro avg"]
    metrics = {
        "f1": micro["f1-score"], "precision": micro["precision"], "recall": micro["recall"],
        "macro_f1": table["macro avg"]["f1-score"], "sample_f1": sample_f1(gold, said), "average_precision": precision,
        "exact_match": (gold == said).all(axis=1).mean(),
        "f1_at_half": f1_score(gold, scores >= 0.5, average="micro", zero_division=0),
    }  # fmt: skip
    metrics |= {f"f1.{label}": table[label]["f1-score"] for label in labels}
    text = classification_report(gold, said, digits=4, labels=range(len(labels)), **options)
    text += (
        f"\nsample F1 {metrics['sample_f1']:.4f}, average precision {precision:.4f}, all labels right "
        f"{metrics['exact_match']:.4f}; micro F1 with one threshold of 0.5 {metrics['f1_at_half']:.4f}\n"
    )
    return Report(
        metrics={name: float(value) for name, value in metrics.items()},
        primary="f1",
        support=int(gold.sum()),
        text=text,
        mode="scikit-learn, micro average, a threshold for each label",
    )


def sample_f1(gold: Int64, said: Int64) -> float:
    """The mean over texts of the F1 of their labels; a text that rightly gets none counts 1, where scikit-learn would count 0."""
    total = gold.sum(axis=1) + said.sum(axis=1)
    right = (gold & said).sum(axis=1)
    return float(np.mean(np.where(total, 2 * right / np.maximum(total, 1), 1.0)))
