"""Observes one answered text for drift: how long it is, what of it is unknown, what was answered how surely, and how its logits lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agent.encoding import Document, Encoder, Float32
from agent.segmentation import GivenWords
from agent.tasks import BaseTask
from agent.windows.tokenizer_setup import unknown_id

NO_ITEM = -1.0  # the score of a text in which nothing was found; scores lie between 0 and 1


class Observation(NamedTuple):
    """What one answered text says.

    Attributes:
        length: Sub-words.
        unknown: Part of them that the vocabulary lacks.
        labels: What was answered: distinct labels in alphabetical order.
        score: That of the least sure item, in hundredths; `NO_ITEM` where nothing was found.
        energy: Mean over the sub-words (or the text's one output) of the logarithm of the sum of the exponentials of the logits, in hundredths:
            how well the encoder's states fit any of the outputs (arXiv 2010.03759, without its sign).
    """

    length: int
    unknown: float
    labels: tuple[str, ...]
    score: float
    energy: float


class Observer:
    """Observes what an agent answers by default, whatever a request asks for.

    Args:
        task: The agent's.
        encoder: The agent's.
    """

    def __init__(self, task: BaseTask[Any], encoder: Encoder) -> None:
        self._task, self._parameters, self._unknown = task, task.parameters(), unknown_id(encoder.tokenizer)

    def fits(self, document: Document) -> bool:
        """Whether a text came as the reference's did: not with words or candidate labels of its request."""
        return not (document.groups or document.words or isinstance(document.text, GivenWords))

    def observe(self, text: str, document: Document, outputs: Sequence[Float32]) -> Observation:
        """Observes a text by the logits of its windows."""
        counted = self._task.counted(self._task.answer(text, document, outputs, self._parameters))
        ids = document.token_ids
        unknown = float((ids == self._unknown).mean()) if len(ids) and self._unknown is not None else 0.0
        score = round(float(min(score for _, score in counted)), 2) if counted else NO_ITEM
        return Observation(
            len(ids), unknown, tuple(sorted({label for label, _ in counted})), score, _energy(document, outputs)
        )


def _energy(document: Document, outputs: Sequence[Float32]) -> float:
    """Means of windows, weighted by their sub-words."""
    sums, count = 0.0, 0
    for window, output in zip(document.windows, outputs, strict=True):
        rows = output[None] if output.ndim == 1 else output[window.offset : window.offset + window.last - window.first]
        if len(rows):
            most = rows.max(axis=-1, keepdims=True)
            sums += float((most[:, 0] + np.log(np.exp(rows - most).sum(axis=-1))).sum())
            count += len(rows)
    return round(sums / max(count, 1), 2)
