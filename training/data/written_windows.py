"""Training windows of texts that are written: each batch asks about written tokens alone, and is parted for a decoder beside an encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.batching import Batch, part_decoded
from agent.encoding import IGNORED, Float32, Int64
from training.data.packing import Int32, Windows


@dataclass(frozen=True)
class WrittenWindows:
    """Windows with a target at each token that is asked about.

    Attributes:
        rows: Of an encoder-decoder what is given and what is written end to end, of token types 0 and 1.
        decodes: Whether a decoder beside an encoder writes.
    """

    rows: Windows
    decodes: bool

    @property
    def lengths(self) -> Int64:
        """int64 [windows], tokens, given and written ones together."""
        return self.rows.lengths

    @property
    def labelled(self) -> Int32:
        """int32 [windows], written tokens."""
        return self.rows.labelled

    @property
    def owners(self) -> Int32:
        """int32 [windows], numbers of examples."""
        return self.rows.owners

    @property
    def logged(self) -> Float32:
        """float32 [windows, 2], NaN: texts are no logged decisions."""
        return self.rows.logged

    @property
    def per_token(self) -> bool:
        """Every token has a target."""
        return True

    @property
    def num_labelled(self) -> int:
        """Written tokens, over all windows."""
        return self.rows.num_labelled

    def at_epoch(self, epoch: int) -> WrittenWindows:
        """The same in every epoch."""
        return self

    def count_labelled(self, rows: Int64) -> int:
        """Written tokens of some windows."""
        return self.rows.count_labelled(rows)

    def target_counts(self, num_outputs: int) -> Int64:
        """Of a whole vocabulary nothing is counted."""
        return np.zeros(num_outputs, np.int64)

    def reward_sums(self, num_outputs: int) -> NDArray[np.float64]:
        """float64 [outputs], 0: texts are no logged decisions."""
        return np.zeros(num_outputs)

    def collate(self, rows: Int64, pad_id: int) -> tuple[Batch, Int64]:
        """Padded windows; the targets are the written tokens in the order of rows, int64 [asked]."""
        batch, targets = self.rows.collate(rows, pad_id)
        asked = targets != IGNORED
        whole = replace(batch, asked=asked.astype(np.int64))
        return part_decoded(whole, pad_id) if self.decodes else whole, targets[asked]
