"""Quality of a model on labelled examples: scores, calibration error, and agreement with the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.encoding import Encoder, Float32, Int64
from agent.evaluation import Cascade, Forward, run_each
from agent.tasks import BaseTask, Report
from compression.reporting.compression_report import Agreement

NUM_BINS = 15  # as in Guo et al., arXiv 1706.04599


@dataclass(frozen=True)
class Answers:
    """The answers of one model to some examples.

    Attributes:
        report: Scores.
        predictions: One for each example, as the task's `predict` gives them.
        choices: For each example int64 [items], the most probable choice of each labelled word (of tags), of the text [1], of
            each label, or the token that each output chooses in each window.
        confidences: float32 [items], the probability of each choice, over all examples.
        correct: bool [items], whether the choice is the label.
    """

    report: Report
    predictions: list[Any]
    choices: list[Int64]
    confidences: Float32
    correct: NDArray[np.bool_]

    @property
    def calibration_error(self) -> float:
        """As `calibration_error`."""
        return calibration_error(self.confidences, self.correct)

    def agreement(self, original: Answers) -> Agreement:
        """Shares that agree with the original. An example in which the two read different numbers of words agrees in no word."""
        pairs = list(zip(self.choices, original.choices, strict=True))
        same = sum(int((ours == theirs).sum()) for ours, theirs in pairs if ours.shape == theirs.shape)
        texts = [ours == theirs for ours, theirs in zip(self.predictions, original.predictions, strict=True)]
        words = sum(len(theirs) for _, theirs in pairs)
        return Agreement(texts=float(np.mean(texts)), words=same / max(words, 1))


def answer_examples(
    task: BaseTask[Any],
    encoder: Encoder,
    examples: Sequence[Any],
    forward: Forward | Cascade,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Runs a model over examples once and scores it."""
    documents = task.encode(encoder, examples)

    def judged(number: int, logits: list[Float32]) -> tuple[Any, Int64, Int64, Float32]:
        wanted = task.targets(examples[number], documents[number])
        probabilities, labels = task.decision.items(wanted, logits)
        confidences = np.nan_to_num(probabilities.max(axis=-1))  # NaN of a broken graph: 0
        return task.predict(documents[number], logits), probabilities.argmax(axis=-1), labels, confidences

    found = run_each(documents, forward, judged, pad_id=encoder.pad_id, progress=progress)
    predictions, choices = [one[0] for one in found], [one[1] for one in found]
    confidences = [one[3] for one in found]
    correct = [chosen == labels for _, chosen, labels, _ in found]
    return Answers(
        task.score(examples, predictions), predictions, choices, np.concatenate(confidences), np.concatenate(correct)
    )


def calibration_error(confidences: Float32, correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over bins of equal width, weighted by items.

    Args:
        confidences: float32 [items], 0 to 1.
        correct: bool [items].
    """
    bins = np.minimum((confidences * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=correct.astype(np.float64) - confidences.astype(np.float64), minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / max(len(confidences), 1))
