"""The test for drift: Pearson's chi-squared test of homogeneity between a reference and blocks of recent texts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_LEAST_EXPECTED = 5.0  # in either row; below it the distribution of the statistic is not chi-squared (Cochran 1954)


class Compared(NamedTuple):
    """Blocks beside the reference.

    Attributes:
        distances: float64 [blocks], total variation: the part of a block that would have to lie in other bins, 0 to 1.
        p_values: float64 [blocks], how often texts of the same distribution differ so much or more.
    """

    distances: Float64
    p_values: Float64


def compare(reference: Int64, blocks: Int64) -> Compared:
    """Compares the counts of blocks with those of the reference; both are samples, so that a small reference is less sure.

    Bins in which the smaller of the two is expected to have less than five texts are taken together, and left out if they have less than
    that together. What is expected follows from the sums of both, under which the test is conditional: its error rate stays.

    Args:
        reference: int64 [bins], texts of the reference.
        blocks: int64 [blocks, bins], texts of each block, which has at least one.
    """
    sizes = np.stack([np.broadcast_to(reference.sum(), len(blocks)), blocks.sum(axis=1)], axis=1)
    distances = np.abs(reference / reference.sum() - blocks / sizes[:, 1:]).sum(axis=1) / 2
    shares = sizes / sizes.sum(axis=1, keepdims=True)
    rare = (reference + blocks) * shares.min(axis=1, keepdims=True) < _LEAST_EXPECTED
    columns = [_with_rest(counts, rare) for counts in (np.broadcast_to(reference, blocks.shape), blocks)]
    totals = columns[0] + columns[1]
    kept = totals * shares.min(axis=1, keepdims=True) >= _LEAST_EXPECTED
    rows = np.where(kept[:, None], np.stack(columns, axis=1), 0)  # [blocks, 2, bins]
    in_rows, in_bins = rows.sum(axis=2, keepdims=True), rows.sum(axis=1, keepdims=True)
    expected = in_rows * in_bins / np.maximum(in_rows.sum(axis=1, keepdims=True), 1)
    found = np.where(expected > 0, (rows - expected) ** 2 / np.where(expected > 0, expected, 1), 0).sum(axis=(1, 2))
    freedom = kept.sum(axis=1) - 1
    return Compared(distances, np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), found), 1.0))


def _with_rest(counts: Int64, rare: npt.NDArray[np.bool_]) -> Int64:
    """Counts in which rare bins are empty, and one more bin has what they held."""
    rest = np.where(rare, counts, 0).sum(axis=1, keepdims=True)
    return np.concatenate([np.where(rare, 0, counts), rest], axis=1)
