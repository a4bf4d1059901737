"""Compares what a converted model says of right texts with what the network says that it was made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.errors import ExportError
from agent.tasks.writing.teacher_forcing import WrittenDocument, right_tokens
from compression.writing.measured_writer import MeasuredWriter


def require_same_scores(
    converted: MeasuredWriter, original: MeasuredWriter, documents: Sequence[WrittenDocument], tolerance: float
) -> float:
    """The largest difference of any sub-word's log-probability after the right ones.

    Args:
        converted: In float32.
        original: The network.
        documents: Texts with what is to be written of them.
        tolerance: The largest difference that is none.

    Raises:
        ExportError: They differ by more, or one says nothing of a sub-word.
    """
    largest, worst = 0.0, ""
    pairs = zip(documents, original.log_probabilities(documents), converted.log_probabilities(documents), strict=True)
    for document, theirs, ours in pairs:
        gaps = np.abs(theirs - ours) if theirs.shape == ours.shape else np.full(theirs.shape, np.inf)
        gaps = np.where(np.isnan(gaps), np.inf, gaps)
        place = int(gaps.argmax())
        if not worst or gaps[place] > largest:
            assert document.vocabulary is not None
            said = document.vocabulary.written(int(right_tokens(document)[place]))
            largest, worst = float(gaps[place]), f"{said!r} (sub-word {place + 1} after {document.text[:60]!r})"
    if not largest <= tolerance:
        raise ExportError(
            f"convert: the model of CTranslate2 differs from PyTorch by {largest:.1e} in the log-probability of {worst}",
            allowed=f"at most {tolerance:.1e} (convert.tolerance)",
            remedy="see whether config.json, the tokenizer and the weights of the bundle are those of one model, or train another family",
        )
    return largest
