"""Which words are hidden and by what, drawn from keys: the same in any batch, in any order, on any number of workers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.encoding import IGNORED, Int64

UInt64 = NDArray[np.uint64]
Bool = NDArray[np.bool_]

_POSITIONS, _STAND_INS = 1, 2  # salts of draws that must differ from those that choose words


@dataclass(frozen=True)
class WordMasking:
    """How words are hidden in training.

    Attributes:
        fraction: Of the words, each by itself; at least one of a row with any.
        random, kept: Parts of the chosen sub-words that become another one or stay as they are; the others become the mask.
        mask_id: Of the tokenizer.
        ordinary: int64, ids that stand for text.
    """

    fraction: float
    random: float
    kept: float
    mask_id: int
    ordinary: Int64

    def choose(self, words: Int64, keys: UInt64, *, turn: int = 0) -> Bool:
        """Draws words to hide.

        Args:
            words: int64 [rows, tokens], the number of the word that each sub-word belongs to; -100 where nothing may be hidden.
            keys: uint64 [rows], what the draws depend on beside the number of a word.
            turn: Others of the same rows hide other words, as long as all turns together hide no more than all words.

        Returns:
            bool [rows, tokens], all sub-words of a word alike.
        """
        maskable = words != IGNORED
        draws = np.where(maskable, (uniform(_draws(words, keys)) - turn * self.fraction) % 1, np.inf)
        chosen: Bool = draws < self.fraction
        for row in np.flatnonzero(maskable.any(axis=1) & ~chosen.any(axis=1)):
            chosen[row] = maskable[row] & (words[row] == words[row, draws[row].argmin()])
        return chosen

    def choose_in_turns(self, words: Int64, key: UInt64, num_turns: int) -> list[Bool]:
        """Draws words of one text to hide, several times; none of them is hidden twice.

        Args:
            words: int64 [tokens], as in `choose`.
            key: uint64 [1].
            num_turns: How often, as long as words are left.

        Returns:
            bool [tokens] for each turn, at least one; all false in a text without words.
        """
        found, left = list[Bool](), words != IGNORED
        for turn in range(num_turns):
            if not left.any():
                break
            found.append(self.choose(np.where(left, words, IGNORED)[None], key, turn=turn)[0])
            left = left & ~found[-1]
        return found or [left]

    def hide(self, input_ids: Int64, words: Int64, keys: UInt64) -> tuple[Int64, Bool]:
        """Hides words of rows.

        Args:
            input_ids: int64 [rows, tokens].
            words, keys: As in `choose`.

        Returns:
            int64 [rows, tokens], what the model sees, and bool [rows, tokens], which sub-words it has to name.
        """
        chosen = self.choose(words, keys)
        places = np.arange(words.shape[1], dtype=np.uint64)
        tokens = mixed(_draws(words, keys) + places[None])
        part = uniform(mixed(tokens + np.uint64(_POSITIONS)))
        other = self.ordinary[mixed(tokens + np.uint64(_STAND_INS)) % np.uint64(len(self.ordinary))]
        stand_ins = np.where(part < self.random, other, self.mask_id)
        shown = np.where(chosen & (part < 1 - self.kept), stand_ins, input_ids)
        return np.asarray(shown, np.int64), chosen


def keys_of(numbers: Int64, *, seed: int, epoch: int) -> UInt64:
    """Keys of records in an epoch of a run: uint64 [records]."""
    start = mixed(mixed(np.array([seed], np.uint64)) + np.uint64(epoch))
    return mixed(start + numbers.astype(np.uint64))


def text_key(text: str) -> UInt64:
    """The key of a text that is always masked alike: uint64 [1]."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return np.array([int.from_bytes(digest[:8], "little")], np.uint64)


def _draws(words: Int64, keys: UInt64) -> UInt64:
    return mixed(keys[:, None] ^ mixed(words.astype(np.uint64)))


def mixed(values: UInt64) -> UInt64:
    """Numbers that look random, one of each: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), overflow intended."""
    state = values + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(values: UInt64) -> NDArray[np.float64]:
    """The same as numbers from 0 to 1, exclusive."""
    return (values >> np.uint64(11)).astype(np.float64) * 2.0**-53
