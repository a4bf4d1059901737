"""What is measured of a model that writes, whatever computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from agent.encoding import Encoder, Float32, Int64
from agent.tasks import BaseTask, SequenceToSequence
from agent.tasks.writing.teacher_forcing import WrittenDocument

BATCH_TOKENS = 1_024  # padding included, each with probabilities of a whole vocabulary


class WritingLimit(NamedTuple):
    """How texts are written.

    Attributes:
        num_beams: 1 takes the likeliest sub-word at each step.
        max_new_tokens: That a text has at most, its end included.
        exact: Whether each has exactly so many, with no end.
    """

    num_beams: int
    max_new_tokens: int
    exact: bool = False


class MeasuredWriter(ABC):
    """A model that writes."""

    @abstractmethod
    def log_probabilities(self, documents: Sequence[WrittenDocument]) -> list[Float32]:
        """Natural logarithms of the probabilities of the right sub-words of each text, after the right ones: float32 [written tokens]."""

    @abstractmethod
    def write(self, documents: Sequence[WrittenDocument], limit: WritingLimit) -> list[list[int]]:
        """The sub-words that it writes for each text in one batch, without the token that ends a text."""


def decodes(task: BaseTask[Any]) -> bool:
    """Whether an encoder reads what a decoder writes of."""
    return isinstance(task, SequenceToSequence)


def encode_written(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> list[WrittenDocument]:
    """Encodes examples of a task that writes.

    Raises:
        DataError: One does not fit into the model; names its place.
    """
    return [document for document in task.encode(encoder, examples) if isinstance(document, WrittenDocument)]


def prompt_of(document: WrittenDocument) -> Int64:
    """What stands before the text that is written last: int64 [tokens]; an encoder is given all that it reads."""
    window = document.windows[0]
    if window.decodes:
        return document.given
    assert window.asked is not None
    starts = np.flatnonzero(np.diff(window.asked, prepend=0) == 1)
    return window.input_ids[: starts[-1] + 1]
