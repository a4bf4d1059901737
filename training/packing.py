"""Encoded training windows as a few flat arrays: small in the object store, fast to collate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.encoding import IGNORED, Batch, Encoder, Int64
from agent.tasks import BaseTask

_CHUNK = 4096  # examples encoded at once: bounds the memory of intermediate objects


@dataclass(frozen=True)
class PackedWindows:
    """Windows with targets.

    Attributes:
        input_ids: int32 [tokens of all windows].
        targets: int32, [tokens of all windows] for one target per token, [windows] for one per window.
        bounds: int64 [windows + 1], where each window begins.
        labelled: int64 [windows], targets other than -100.
    """

    input_ids: NDArray[np.int32]
    targets: NDArray[np.int32]
    bounds: Int64
    labelled: Int64

    @property
    def lengths(self) -> Int64:
        """int64 [windows], tokens."""
        return np.diff(self.bounds)

    def collate(self, rows: Int64, pad_id: int) -> tuple[Batch, Int64]:
        """Pads windows to the longest; targets become int64 [rows, tokens] or [rows].

        No rows at all give one row of padding whose target is ignored: a forward pass that counts nothing.
        """
        lengths = self.lengths[rows] if len(rows) else np.ones(1, np.int64)
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
        input_ids, targets = np.full(mask.shape, pad_id, np.int64), np.full(mask.shape, IGNORED, np.int64)
        if len(rows):
            source = (self.bounds[rows][:, None] + np.arange(mask.shape[1]))[mask]
            input_ids[mask] = self.input_ids[source]
        if len(self.targets) != len(self.input_ids):
            targets = self.targets[rows].astype(np.int64) if len(rows) else np.array([IGNORED])
        elif len(rows):
            targets[mask] = self.targets[source]
        return Batch(input_ids, mask.astype(np.int64), np.zeros_like(input_ids)), targets


def pack(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> PackedWindows:
    """Encodes examples and their targets."""
    ids: list[Int64] = []
    targets: list[Int64] = []
    for first in range(0, len(examples), _CHUNK):
        chunk = examples[first : first + _CHUNK]
        for example, document in zip(chunk, task.encode(encoder, chunk), strict=True):
            ids.extend(window.input_ids for window in document.windows)
            targets.extend(np.atleast_1d(target) for target in task.targets(example, document))
    return PackedWindows(
        input_ids=np.concatenate(ids).astype(np.int32),
        targets=np.concatenate(targets).astype(np.int32),
        bounds=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        labelled=np.array([int((target != IGNORED).sum()) for target in targets], np.int64),
    )
