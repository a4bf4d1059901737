"""Encoded training windows as flat arrays, in memory or memory-mapped, and their collation into padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.batching import Batch
from agent.encoding import IGNORED, Encoder, Float32, Int64, Window
from agent.tasks import BaseTask

Int32 = NDArray[np.int32]
UNKNOWN = float("nan")
"""Propensity and reward of what is no logged decision."""

UNLABELLED = -101  # a target without a label, which only a teacher's loss covers; -100 (IGNORED) is no target

_CHUNK = 4096  # examples encoded at once: limits the memory of intermediate objects
_COUNTED = 1 << 22  # targets counted at once: limits the memory of mapped arrays


class Windows(Protocol):
    """The interface of training windows, in memory or memory-mapped; see `PackedWindows`."""

    @property
    def lengths(self) -> Int64:
        """int64 [windows], tokens."""

    @property
    def labelled(self) -> Int32:
        """int32 [windows], targets that count, `UNLABELLED` ones among them."""

    @property
    def owners(self) -> Int32:
        """int32 [windows], numbers of examples."""

    @property
    def logged(self) -> Float32:
        """float32 [windows, 2], propensity and reward of logged decisions, NaN elsewhere."""

    @property
    def per_token(self) -> bool:
        """Whether every token has a target, or else every window."""

    @property
    def num_labelled(self) -> int:
        """Targets with a label, over all windows."""

    def at_epoch(self, epoch: int) -> Windows:
        """The windows of an epoch, from 0."""

    def count_labelled(self, rows: Int64) -> int:
        """Targets that count in some windows."""

    def target_counts(self, num_outputs: int) -> Int64:
        """int64 [outputs], how often each is the target; logged answers are left out."""

    def reward_sums(self, num_outputs: int) -> NDArray[np.float64]:
        """float64 [outputs], the rewards of the logged answers that are each output; 0 where there are none."""

    def collate(self, rows: Int64, pad_id: int) -> tuple[Batch, Int64]:
        """Padded windows with their targets."""


@dataclass(frozen=True)
class PackedWindows:
    """Windows with targets.

    Attributes:
        input_ids: int32 [tokens of all windows].
        targets: int32, [tokens of all windows] for one target per token, [windows] for one per window, [windows, outputs] for one
            per output of a window: 1 or 0, or the place of a token.
        bounds: int64 [windows + 1], where each window begins.
        labelled: int32 [windows], targets other than -100.
        owners: int32 [windows], the number of the example that a window is of, ascending.
        seconds: int32 [windows], the place from which a window's token types are 1 (its second text), its length where they never are.
        logged: float32 [windows, 2], propensity and reward of a logged decision, whose answer is the target; NaN where people gave the target.
    """

    input_ids: Int32
    targets: Int32
    bounds: Int64
    labelled: Int32
    owners: Int32
    seconds: Int32
    logged: Float32

    @property
    def lengths(self) -> Int64:
        """int64 [windows], tokens; computed at each call."""
        return np.diff(self.bounds)

    @property
    def per_token(self) -> bool:
        """Whether every token has a target, or else every window."""
        return self.targets.ndim == 1 and len(self.targets) == len(self.input_ids)

    @property
    def num_labelled(self) -> int:
        """Targets with a label, over all windows."""
        return sum(int((chunk >= 0).sum()) for chunk in _chunks(self.targets))

    def at_epoch(self, epoch: int) -> PackedWindows:
        """The same in every epoch."""
        return self

    def count_labelled(self, rows: Int64) -> int:
        """Targets that count in some windows."""
        return int(self.labelled[rows].sum())

    def target_counts(self, num_outputs: int) -> Int64:
        """How often each output is the target: int64 [outputs]; logged answers are left out."""
        counts = np.zeros(num_outputs, np.int64)
        answered = ~np.isnan(self.logged[:, 0])
        for chunk in _chunks(self.targets[~answered] if answered.any() else self.targets):
            binary = chunk.ndim > 1
            counts += (chunk == 1).sum(axis=0) if binary else np.bincount(chunk[chunk >= 0], minlength=num_outputs)
        return counts

    def reward_sums(self, num_outputs: int) -> NDArray[np.float64]:
        """The rewards of the logged answers that are each output: float64 [outputs]."""
        rows = np.flatnonzero(~np.isnan(self.logged[:, 1]))
        sums = np.zeros(num_outputs)
        if len(rows):
            np.add.at(sums, self.targets[rows], self.logged[rows, 1])
        return sums

    def collate(self, rows: Int64, pad_id: int) -> tuple[Batch, Int64]:
        """Pads windows to the longest; targets become int64 [rows, tokens], [rows] or [rows, outputs].

        No rows at all give one row of padding whose target is ignored: a forward pass that counts nothing.
        """
        starts = self.bounds[rows]
        lengths = self.bounds[rows + 1] - starts if len(rows) else np.ones(1, np.int64)
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
        input_ids, targets = np.full(mask.shape, pad_id, np.int64), np.full(mask.shape, IGNORED, np.int64)
        if len(rows):
            source = (starts[:, None] + np.arange(mask.shape[1]))[mask]
            input_ids[mask] = self.input_ids[source]
        if not self.per_token:
            shape = (1, *self.targets.shape[1:])
            targets = self.targets[rows].astype(np.int64) if len(rows) else np.full(shape, IGNORED)
        elif len(rows):
            targets[mask] = self.targets[source]
        types = mask & (np.arange(mask.shape[1]) >= self.seconds[rows][:, None]) if len(rows) else np.zeros_like(mask)
        return Batch(input_ids, mask.astype(np.int64), types.astype(np.int64)), targets


def pack(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> PackedWindows:
    """Encodes examples and their targets."""
    ids: list[Int64] = []
    targets: list[Int64] = []
    counts: list[int] = []  # windows of each example
    seconds: list[int] = []
    logged: list[tuple[float, float]] = []
    for first in range(0, len(examples), _CHUNK):
        chunk = examples[first : first + _CHUNK]
        for example, (document, wanted) in zip(chunk, task.training_windows(encoder, chunk), strict=True):
            ids.extend(window.input_ids.astype(np.int32) for window in document.windows)
            targets.extend(target.astype(np.int32) for target in wanted)
            seconds.extend(map(_second, document.windows))
            counts.append(len(document.windows))
            logged.extend([example.logged or (UNKNOWN, UNKNOWN)] * len(document.windows))
    return PackedWindows(
        input_ids=np.concatenate(ids),
        targets=np.concatenate(targets) if task.decision.per_token else np.stack(targets),
        bounds=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        labelled=np.array([int((target != IGNORED).sum()) for target in targets], np.int32),
        owners=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        seconds=np.array(seconds, np.int32),
        logged=np.array(logged, np.float32),
    )


def _second(window: Window) -> int:
    """Where the token types of a window become 1. A single text may have types of its own (XLNet); they say nothing and are left out."""
    ones = np.flatnonzero(window.type_ids == 1)
    paired = len(ones) and window.type_ids[0] == 0 and ones[-1] - ones[0] + 1 == len(ones)
    return int(ones[0]) if paired else len(window.type_ids)


def _chunks(targets: Int32) -> Iterator[Int32]:
    for first in range(0, len(targets), _COUNTED):
        yield targets[first : first + _COUNTED]


def forget_labels(windows: PackedWindows) -> PackedWindows:
    """The same windows with `UNLABELLED` targets."""
    unknown = np.where(windows.targets == IGNORED, np.int32(IGNORED), np.int32(UNLABELLED))
    return replace(windows, targets=unknown, logged=np.full_like(windows.logged, UNKNOWN))


@dataclass(frozen=True)
class JoinedWindows:
    """Windows of two sources as one; those of `last` have the higher numbers."""

    first: Windows
    last: Windows

    @property
    def lengths(self) -> Int64:
        """int64 [windows], tokens."""
        return np.concatenate([self.first.lengths, self.last.lengths])

    @property
    def labelled(self) -> Int32:
        """int32 [windows], targets that count."""
        return np.concatenate([self.first.labelled, self.last.labelled])

    @property
    def owners(self) -> Int32:
        """int32 [windows], numbers of examples; those of `last` continue after `first`."""
        return np.concatenate([self.first.owners, self.last.owners + self.first.owners[-1] + np.int32(1)])

    @property
    def logged(self) -> Float32:
        """float32 [windows, 2], propensity and reward of logged decisions, NaN elsewhere."""
        return np.concatenate([self.first.logged, self.last.logged])

    @property
    def per_token(self) -> bool:
        """Whether every token has a target, or else every window."""
        return self.first.per_token

    @property
    def num_labelled(self) -> int:
        """Targets with a label, over all windows."""
        return self.first.num_labelled + self.last.num_labelled

    def at_epoch(self, epoch: int) -> JoinedWindows:
        """The same in every epoch: text of a teacher joins no masked text."""
        return self

    def count_labelled(self, rows: Int64) -> int:
        """Targets that count in some windows."""
        return int(self.labelled[rows].sum())

    def target_counts(self, num_outputs: int) -> Int64:
        """How often each output is the target: int64 [outputs]."""
        return self.first.target_counts(num_outputs) + self.last.target_counts(num_outputs)

    def reward_sums(self, num_outputs: int) -> NDArray[np.float64]:
        """The rewards of the logged answers that are each output: float64 [outputs]."""
        return self.first.reward_sums(num_outputs) + self.last.reward_sums(num_outputs)

    def collate(self, rows: Int64, pad_id: int) -> tuple[Batch, Int64]:
        """Padded windows with their targets, in the order of `rows`."""
        split = len(self.first.labelled)
        late = rows >= split
        if not late.any():
            return self.first.collate(rows, pad_id)
        if late.all():
            return self.last.collate(rows - split, pad_id)
        parts = self.first.collate(rows[~late], pad_id), self.last.collate(rows[late] - split, pad_id)
        merged = _Merge(late)
        fields = [
            merged([getattr(batch, name) for batch, _ in parts], fill)
            for name, fill in (("input_ids", pad_id), ("attention_mask", 0), ("token_type_ids", 0))
        ]
        return Batch(*fields), merged([targets for _, targets in parts], IGNORED)


class _Merge:
    """Merges the rows of two arrays: true in `late` takes the next row of the second."""

    def __init__(self, late: NDArray[np.bool_]) -> None:
        self._late = late

    def __call__(self, parts: Sequence[Int64], fill: int) -> Int64:
        shape = (len(self._late), *(max(part.shape[1] for part in parts) for _ in parts[0].shape[1:]))
        whole = np.full(shape, fill, np.int64)
        for part, chosen in zip(parts, (~self._late, self._late), strict=True):
            whole[(chosen, slice(part.shape[1])) if part.ndim > 1 else chosen] = part
        return whole
