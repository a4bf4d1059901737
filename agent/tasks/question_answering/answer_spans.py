"""Decodes answers: the best pairs of a start and an end over all windows of a document, in characters of its context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from agent.encoding import Document, Float32, Int64
from agent.tasks.output_decision import softmax
from agent.tasks.tagged_text import trim
from agent.windows.text_pairs import TextPair
from agent.windows.tokenizer_setup import ascending

_CANDIDATES = 32  # best pairs that are looked at for each answer asked for, since several may be the same characters
# Scripts that part words by blanks end here; of those before, these do not: Thai and Lao, Myanmar, Khmer.
_NO_BLANKS_FROM, _NO_BLANKS = "\u2e80", (("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"))


class AnswerSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of the context, with their probability."""

    start: int
    end: int
    score: float


class Reading(NamedTuple):
    """What a model says of a question.

    Attributes:
        spans: Best first; none where the context has no sub-words or the model is broken.
        no_answer: The probability that the context holds no answer: the lowest of all windows.
    """

    spans: list[AnswerSpan]
    no_answer: float

    @property
    def confidence(self) -> float:
        """The share of the best answer beside no answer, 0 to 1."""
        best = self.spans[0].score if self.spans else 0.0
        return best / (best + self.no_answer) if best else 0.0


def context_of(document: Document) -> str:
    """The text that answers are parts of."""
    assert isinstance(document.text, TextPair)
    return document.text.second


def context_edges(document: Document) -> tuple[int, Int64, Int64]:
    """How many sub-words the question has, and where those of the context begin and end in it: int64 [sub-words] each."""
    lead = document.windows[0].first
    return lead, *ascending(np.array(document.offsets[lead:], np.int64).reshape(-1, 2))


def read_windows(
    document: Document, outputs: Sequence[Float32], *, max_tokens: int, top_k: int, whole_words: bool
) -> Reading:
    """Finds the best answers.

    The probability of an answer is that of its start times that of its end, each of all tokens of its window; of windows that hold
    the same answer the surest counts. A window without the answer was taught to point to its first token.

    Args:
        document: A question and its context.
        outputs: One float32 [2, tokens (or more, padded)] per window: logits of start and end.
        max_tokens: Sub-words of the longest answer.
        top_k: How many answers to find.
        whole_words: Whether answers that begin or end within a word are widened to it.
    """
    context, (lead, starts, ends) = context_of(document), context_edges(document)
    width = min(max_tokens, max(len(starts), 1))
    grid, no_answer = np.zeros((len(starts), width), np.float32), 1.0  # [first sub-word, further ones]
    for window, output in zip(document.windows, outputs, strict=True):
        chosen = np.nan_to_num(softmax(output[:, : len(window.input_ids)]))  # of a broken graph
        no_answer = min(no_answer, float(chosen[0, 0] * chosen[1, 0]))
        first, last = window.first - lead, window.last - lead
        begin, end = chosen[:, window.offset : window.offset + last - first]
        products = begin[:, None] * sliding_window_view(np.pad(end, (0, width)), width)[: len(end)]
        np.maximum(grid[first:last], products, out=grid[first:last])
    found: dict[tuple[int, int], AnswerSpan] = {}
    for token, further, score in _best(grid, top_k * _CANDIDATES):
        edges = trim(context, int(starts[token]), int(ends[token + further]))
        edges = _widened(context, *edges) if whole_words else edges
        if edges[0] < edges[1]:
            found.setdefault(edges, AnswerSpan(*edges, score))
        if len(found) == top_k:
            break
    return Reading(list(found.values()), no_answer)


def _best(grid: Float32, most: int) -> Iterator[tuple[int, int, float]]:
    """The pairs with the highest probabilities, best first: first sub-word, further ones, probability."""
    flat = grid.ravel()
    places = np.argpartition(-flat, most)[:most] if most < len(flat) else np.arange(len(flat))
    for place in places[np.argsort(-flat[places], kind="stable")].tolist():
        if flat[place] > 0:
            yield *divmod(place, grid.shape[1]), float(flat[place])


def _widened(text: str, start: int, end: int) -> tuple[int, int]:
    """Edges that part no word of a script with blanks between words."""
    while 0 < start < end and _in_word(text[start - 1]) and _in_word(text[start]):
        start -= 1
    while start < end < len(text) and _in_word(text[end - 1]) and _in_word(text[end]):
        end += 1
    return start, end


def _in_word(letter: str) -> bool:
    return letter.isalnum() and letter < _NO_BLANKS_FROM and not any(low <= letter <= high for low, high in _NO_BLANKS)
