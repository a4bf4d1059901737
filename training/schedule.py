"""Which windows each worker sees at each step: a pure function of lengths, seed, epoch and number of workers.

Every worker computes the whole plan, so no communication is needed to agree on the number of steps, and the windows of
a step are the same whatever the number of workers or the size of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from agent.batching import cut_by_length
from agent.config import Config
from agent.encoding import Int64

_POOL = 16_384  # windows that are sorted by length together: enough for batches of one length, few enough to shuffle


class BatchConfig(Config):
    """How windows are batched."""

    tokens: int = Field(1024, ge=16, description="padded tokens of one optimizer step, over all workers")
    micro_tokens: int = Field(
        4096, ge=16, description="padded tokens one worker takes through the model at once; lower it if memory is short"
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step of one worker.

    Attributes:
        micro_batches: Window indices of each forward pass; the same number on every worker, possibly empty ones.
        rows: int64 [windows], all windows of the step, over all workers.
    """

    micro_batches: tuple[Int64, ...]
    rows: Int64


def plan_epoch(lengths: Int64, *, config: BatchConfig, seed: int, epoch: int) -> list[Int64]:
    """Returns the windows of every step of an epoch: each window exactly once, like lengths together, steps shuffled.

    Args:
        lengths: int64 [windows], tokens.
        config: Budgets.
        seed, epoch: What the shuffling depends on.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    pools = np.array_split(order, max(1, -(-len(order) // _POOL)))
    steps = [pool[batch] for pool in pools for batch in cut_by_length(lengths[pool].tolist(), max_tokens=config.tokens)]
    return [steps[index] for index in rng.permutation(len(steps))]


def share(rows: Int64, lengths: Int64, *, config: BatchConfig, rank: int, num_workers: int) -> Step:
    """Gives one worker its part of a step: every `num_workers`-th window by length, so that all get like amounts."""
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    cuts = [_cut(ordered[worker::num_workers], lengths, config) for worker in range(num_workers)]
    count = max(map(len, cuts))
    mine = [*cuts[rank], *[np.empty(0, dtype=np.int64)] * (count - len(cuts[rank]))]
    return Step(tuple(mine), rows)


def _cut(rows: Int64, lengths: Int64, config: BatchConfig) -> Sequence[Int64]:
    return [rows[batch] for batch in cut_by_length(lengths[rows].tolist(), max_tokens=config.micro_tokens)]
