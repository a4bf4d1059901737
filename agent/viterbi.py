"""The best sequence of tags among those that a scheme allows. Knows scores and rules, no words and no model."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agent.encoding import Float32, Int64
from agent.spans import split_tag

Flags = NDArray[np.bool_]


def best_path(log_probs: Float32, allowed: Flags, first: Flags) -> Int64:
    """Finds the allowed sequence with the highest sum (Viterbi, doi 10.1109/TIT.1967.1054010).

    Where the best tag of every word makes an allowed sequence, that is the answer and no search is needed.

    Args:
        log_probs: float32 [words, tags], up to a constant per word (logits will do); -inf forbids a tag, never all of a word.
        allowed: bool [tags, tags]; whether the tag of the row may be followed by the tag of the column.
        first: bool [tags]; whether a sequence may begin with the tag.

    Returns:
        int64 [words].

    Raises:
        ValueError: No allowed sequence has a finite sum.
    """
    greedy: Int64 = log_probs.argmax(axis=1)
    if not len(greedy) or (first[greedy[0]] and allowed[greedy[:-1], greedy[1:]].all()):
        return greedy
    scores = np.where(first, log_probs[0].astype(np.float64), -np.inf)
    forbidden = np.where(allowed.T, 0.0, -np.inf)  # [to, from]: the search runs along the contiguous axis
    before = np.empty(log_probs.shape, np.int64)
    for word in range(1, len(log_probs)):
        candidates = forbidden + scores
        before[word] = candidates.argmax(axis=1)
        scores = candidates.max(axis=1) + log_probs[word]
    return _backwards(before, scores)


@lru_cache(maxsize=16)
def iob2_rules(tags: tuple[str, ...]) -> tuple[Flags, Flags]:
    """Which IOB2 tags may follow each other (`allowed` of best_path) and which may begin: I-X follows B-X or I-X only."""
    allowed = np.array([[_follows(tag, before) for tag in tags] for before in tags])
    return allowed, np.array([_follows(tag, None) for tag in tags])


def _follows(tag: str, before: str | None) -> bool:
    prefix, label = split_tag(tag)
    return prefix != "I" or (before is not None and split_tag(before)[1] == label)


def _backwards(before: Int64, scores: NDArray[np.float64]) -> Int64:
    best = int(scores.argmax())
    if np.isneginf(scores[best]):
        raise ValueError(f"no allowed sequence of {len(before)} words has a finite sum")
    path: list[int] = [best]
    for row in before[:0:-1]:
        path.append(int(row[path[-1]]))
    return np.array(path[::-1], np.int64)
