"""Which items share a batch: neighbours in length, up to a budget of padded tokens. Pure arithmetic over lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def cut_by_length(lengths: Sequence[int], *, max_tokens: int) -> Iterator[list[int]]:
    """Sorts items by length and cuts the row into batches whose padded size stays within a budget.

    Args:
        lengths: Tokens of each item.
        max_tokens: Budget of a batch: its longest item times its items. An item beyond it gets a batch of its own.

    Yields:
        Indices into `lengths`, shortest batch first; every index exactly once.
    """
    batch: list[int] = []
    for index in np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        if batch and lengths[index] * (len(batch) + 1) > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
