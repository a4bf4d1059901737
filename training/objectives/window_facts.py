"""What a loss may know of the windows of a batch beside their targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.encoding import Float32

UInt64 = NDArray[np.uint64]


@dataclass(frozen=True)
class WindowFacts:
    """Facts of the windows of a batch, in the order of its rows.

    They depend on the windows, the run's seed and the epoch alone, so that a loss is the same whatever the number of workers and the
    size of micro-batches.

    Attributes:
        keys: uint64 [rows], seeds for what is drawn of a window in this epoch.
        logged: float32 [rows, 2], propensity and reward of a logged decision, whose answer is the target; NaN where people gave the target.
        mean_reward: Of all logged decisions in the training split, each once; NaN where there are none.
    """

    keys: UInt64
    logged: Float32
    mean_reward: float


def mean_reward(logged: Float32, owners: NDArray[np.int32]) -> float:
    """The mean reward of decisions.

    Args:
        logged: float32 [windows, 2], as in `WindowFacts`.
        owners: int32 [windows], the decision of each window: one with a long text counts once.
    """
    known = np.flatnonzero(~np.isnan(logged[:, 1]))
    if not len(known):
        return float("nan")
    _, firsts = np.unique(owners[known], return_index=True)
    return float(logged[known[firsts], 1].mean(dtype=np.float64))
