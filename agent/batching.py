"""Groups windows of similar length into batches within a budget of padded tokens, and pads them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from agent.encoding import Float32, Int64, Window


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded windows.

    Attributes:
        input_ids, attention_mask, token_type_ids: int64 [rows, tokens].
        asked: int64 [rows, tokens], 1 at tokens that the model is asked about; None: about all. Only models that choose of a whole
            vocabulary are told. Beside `decoder_ids` it is of their shape.
        decoder_ids: int64 [rows, written tokens], what a decoder writes of each row; None where there is no decoder.
    """

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64
    asked: Int64 | None = None
    decoder_ids: Int64 | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_mask.sum())

    def feeds(self, names: Iterable[str]) -> dict[str, Int64]:
        """The inputs of a graph, by their names; `asked` is 1 everywhere if it is None."""
        found = {name: getattr(self, name) for name in names}
        if found.get("asked", self.input_ids) is None:
            found["asked"] = np.ones_like(self.input_ids)
        return found

    def shaped(self, logits: Float32, names: Iterable[str]) -> Float32:
        """The logits of a graph with these inputs: of all tokens [rows, tokens, outputs] where none were chosen."""
        whole = self.asked is None and "asked" in names
        return logits.reshape(*self.input_ids.shape, -1) if whole else logits

    def rows_of(self, logits: Float32) -> list[Float32]:
        """The logits of each window: rows of a stacked array, or of the asked tokens of all rows, float32 [asked, outputs]."""
        if self.asked is None:
            return list(logits)
        return np.split(logits, np.cumsum(self.asked.sum(axis=1))[:-1])


def pad(windows: Sequence[Window], pad_id: int) -> Batch:
    """Pads windows to the longest of them."""
    lengths = [len(window.input_ids) for window in windows]
    shape = (len(windows), max(lengths))
    asked = None if all(window.asked is None for window in windows) else np.zeros(shape, np.int64)
    batch = Batch(np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), asked)
    for row, (window, length) in enumerate(zip(windows, lengths, strict=True)):
        batch.input_ids[row, :length] = window.input_ids
        batch.attention_mask[row, :length] = 1
        batch.token_type_ids[row, :length] = window.type_ids
        if asked is not None:
            asked[row, :length] = 1 if window.asked is None else window.asked
    return part_decoded(batch, pad_id) if windows[0].decodes else batch


def part_decoded(batch: Batch, pad_id: int) -> Batch:
    """Parts rows that end with what a decoder writes, which is of type 1 and asked about where the model has to say it.

    Args:
        batch: Padded on the right, with `asked`.
        pad_id: Of the tokenizer.

    Returns:
        The tokens before as `input_ids`, the written ones as `decoder_ids`; a column of each at least.
    """
    assert batch.asked is not None
    written = batch.token_type_ids == 1
    source = batch.attention_mask.astype(bool) & ~written
    mask = _moved_left(batch.attention_mask, source, 0)
    return Batch(
        _moved_left(batch.input_ids, source, pad_id),
        mask,
        np.zeros_like(mask),
        _moved_left(batch.asked, written, 0),
        _moved_left(batch.input_ids, written, pad_id),
    )


def _moved_left(array: Int64, chosen: NDArray[np.bool_], fill: int) -> Int64:
    """The chosen items of each row, in their order, from the first column on."""
    counts = chosen.sum(axis=1)
    places = np.arange(counts.max(initial=1)) < counts[:, None]
    moved = np.full(places.shape, fill, np.int64)
    moved[places] = array[chosen]
    return moved


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
