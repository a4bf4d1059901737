"""Groups items of similar length into batches within a budget of padded tokens."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np


def cut_by_length(lengths: Sequence[int], *, max_tokens: int) -> Iterator[list[int]]:
    """Sorts items by length and cuts them into batches whose padded size stays within a budget.

    Args:
        lengths: Tokens of each item.
        max_tokens: Budget of a batch: its longest item times its items. An item beyond it gets a batch of its own.

    Yields:
        Indices into `lengths`, shortest batch first; every index exactly once.
    """
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    bounds = cut_ascending([lengths[index] for index in order], max_tokens=max_tokens)
    for first, last in pairwise(bounds):
        yield order[first:last]


def cut_ascending(lengths: Sequence[int], *, max_tokens: int) -> list[int]:
    """Cuts items in ascending order of length; each batch takes as many as its budget holds.

    Args:
        lengths: Tokens of each item, ascending; a list is faster than an array.
        max_tokens: As in `cut_by_length`.

    Returns:
        The first index of each batch, and the number of items as the last.
    """
    bounds = [0]
    while bounds[-1] < len(lengths):
        bounds.append(_end(lengths, bounds[-1], max_tokens))
    return bounds


def _end(lengths: Sequence[int], first: int, max_tokens: int) -> int:
    """Finds the end of a batch by bisection, since its padded size grows with it."""
    shortest = lengths[first]
    furthest = min(len(lengths), first + max_tokens // shortest) if shortest else len(lengths)
    ends = range(first + 2, furthest + 1)
    return first + 1 + bisect_right(ends, max_tokens, key=lambda end: lengths[end - 1] * (end - first))
