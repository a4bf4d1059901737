"""Training windows whose words are hidden anew in each epoch, drawn from seed, epoch and record."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.batching import Batch
from agent.encoding import Float32, Int64
from agent.tasks.masked_language.word_masking import WordMasking, keys_of
from training.data.packing import Int32, Windows


@dataclass(frozen=True)
class MaskedWindows:
    """Windows of whole words, from which some are hidden when a batch is made.

    Attributes:
        words: Their targets are the numbers of words.
        masking: How words are hidden.
        seed: Of the run.
        epoch: From 0.
    """

    words: Windows
    masking: WordMasking
    seed: int
    epoch: int = 0

    @property
    def lengths(self) -> Int64:
        """int64 [windows], tokens."""
        return self.words.lengths

    @property
    def labelled(self) -> Int32:
        """int32 [windows], sub-words that may be hidden."""
        return self.words.labelled

    @property
    def owners(self) -> Int32:
        """int32 [windows], numbers of examples."""
        return self.words.owners

    @property
    def logged(self) -> Float32:
        """float32 [windows, 2], NaN: masked words are no decisions."""
        return self.words.logged

    @property
    def per_token(self) -> bool:
        """Every token has a target."""
        return True

    @property
    def num_labelled(self) -> int:
        """Sub-words that may be hidden, over all windows."""
        return self.words.num_labelled

    def at_epoch(self, epoch: int) -> MaskedWindows:
        """The same windows with the words hidden of another epoch."""
        return replace(self, epoch=epoch)

    def count_labelled(self, rows: Int64) -> int:
        """Hidden sub-words of some windows."""
        _, hidden, _ = self._hidden(rows, 0)
        return int(hidden.sum())

    def target_counts(self, num_outputs: int) -> Int64:
        """Of a whole vocabulary nothing is counted."""
        return np.zeros(num_outputs, np.int64)

    def reward_sums(self, num_outputs: int) -> NDArray[np.float64]:
        """float64 [outputs], 0: masked words are no decisions."""
        return np.zeros(num_outputs)

    def collate(self, rows: Int64, pad_id: int) -> tuple[Batch, Int64]:
        """Padded windows with words hidden; the targets are the hidden sub-words in the order of rows, int64 [hidden]."""
        batch, hidden, shown = self._hidden(rows, pad_id)
        asked = hidden.astype(np.int64)
        return Batch(shown, batch.attention_mask, batch.token_type_ids, asked), batch.input_ids[hidden]

    def _hidden(self, rows: Int64, pad_id: int) -> tuple[Batch, np.ndarray[tuple[int, ...], np.dtype[np.bool_]], Int64]:
        batch, words = self.words.collate(rows, pad_id)
        numbers = self.owners[rows] if len(rows) else np.zeros(1, np.int32)  # of no rows one of padding is made
        keys = keys_of(numbers.astype(np.int64), seed=self.seed, epoch=self.epoch)
        shown, hidden = self.masking.hide(batch.input_ids, words, keys)
        return batch, hidden, shown
