"""Plans which windows each worker computes in each step, from lengths, seed, epoch and number of workers alone.

Every worker computes the whole plan, so the number of steps needs no communication, and the windows of a step are the same
whatever the number of workers or the size of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from agent.batching import cut_ascending, cut_by_length
from agent.config.base import Config
from agent.encoding import Int64

_MIN_STEP_TOKENS = 16
_POOL = 16_384  # windows that are sorted by length together: enough for batches of one length, few enough to shuffle


class BatchConfig(Config):
    """How windows are batched."""

    tokens: int | Literal["auto"] = Field(
        "auto",
        description="padded tokens of one optimizer step, over all workers: a number, or auto for 1024 and, where data is scarce, down to 256",
    )
    micro_tokens: int = Field(
        4096, ge=16, description="padded tokens one worker takes through the model at once; lower it if memory is short"
    )
    halve_on_oom: bool = Field(
        True,
        description="when memory runs out, go on from the last checkpoint with half of micro_tokens: same result, slower",
    )

    @field_validator("tokens")
    @classmethod
    def _hold_a_text(cls, tokens: int | str) -> int | str:
        if isinstance(tokens, int) and tokens < _MIN_STEP_TOKENS:
            raise ValueError(f"should be 'auto' or greater than or equal to {_MIN_STEP_TOKENS}")
        return tokens

    @property
    def step_tokens(self) -> int:
        """Tokens of a step in a run whose `auto` has been filled in."""
        assert self.tokens != "auto"
        return self.tokens


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The steps of an epoch, as a few flat arrays: about 4 bytes a window.

    Attributes:
        order: int32 [windows], batch after batch.
        bounds: int64 [steps + 1], where each batch begins in `order`.
        sequence: int32 [steps], the batch of each step.
    """

    order: NDArray[np.int32]
    bounds: Int64
    sequence: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, step: int) -> Int64:
        """The windows of a step: int64 [windows]."""
        batch = self.sequence[step]
        return self.order[self.bounds[batch] : self.bounds[batch + 1]].astype(np.int64)

    def __iter__(self) -> Iterator[Int64]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True, slots=True)
class StepShare:
    """One worker's share of an optimizer step.

    Attributes:
        micro_batches: Window indices of each forward pass; the same number on every worker, possibly empty ones.
        rows: int64 [windows], all windows of the step, over all workers.
        padded_tokens: Tokens with padding, over all workers.
    """

    micro_batches: tuple[Int64, ...]
    rows: Int64
    padded_tokens: int


def plan_epoch(lengths: Int64, *, config: BatchConfig, seed: int, epoch: int) -> EpochPlan:
    """Plans the steps of an epoch: each window exactly once, like lengths together, steps shuffled.

    Args:
        lengths: int64 [windows], tokens.
        config: Budgets.
        seed, epoch: What the shuffling depends on.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(np.arange(len(lengths), dtype=np.int32))
    bounds = [np.zeros(1, np.int64)]
    begin = 0
    for pool in np.array_split(order, max(1, -(-len(order) // _POOL))):  # views, each sorted in place
        pool_lengths = lengths[pool]
        ascending = np.argsort(pool_lengths, kind="stable")
        pool[:] = pool[ascending]
        cuts = cut_ascending(pool_lengths[ascending].tolist(), max_tokens=config.step_tokens)
        bounds.append(np.array(cuts[1:], np.int64) + begin)
        begin += len(pool)
    starts = np.concatenate(bounds)
    return EpochPlan(order, starts, rng.permutation(np.arange(len(starts) - 1, dtype=np.int32)))


def share(  # noqa: PLR0913
    rows: Int64, lengths: Int64, *, config: BatchConfig, rank: int, num_workers: int, num_parallel: int = 1
) -> StepShare:
    """One worker's share of a step: windows are distributed by length, so that all workers and thread groups get similar amounts.

    Micro-batches that are computed at once follow each other, `num_parallel` of them, with `micro_tokens` together at most.
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    num_shares = num_workers * num_parallel
    budget = config.micro_tokens // num_parallel
    shares = [_cut(ordered[first::num_shares], lengths, budget) for first in range(num_shares)]
    count = max(map(len, shares))
    empty = np.empty(0, dtype=np.int64)
    own = [[*shares[group * num_workers + rank], *[empty] * count][:count] for group in range(num_parallel)]
    padded = sum(int(lengths[batch].max()) * len(batch) for batches in shares for batch in batches)
    return StepShare(tuple(batch for at_once in zip(*own, strict=True) for batch in at_once), rows, padded)


def _cut(rows: Int64, lengths: Int64, budget: int) -> Sequence[Int64]:
    return [rows[batch] for batch in cut_by_length(lengths[rows].tolist(), max_tokens=budget)]
