"""Vectors of texts by the n-grams of characters of their words: TF-IDF weights, hashed into few dimensions; and the form in which texts are compared."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agent.encoding import Float32

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

WIDTH = 1_024  # numbers for each text of an input: inner products are exact to about 1/sqrt(WIDTH) of what texts do not share
_GRAMS = (3, 4, 5)  # characters
_LONGEST = 10_000  # characters of a text that are looked at
_TEXTS_AT_ONCE = 256
_FREQUENCY_BITS = 20  # of the table of document frequencies
_BLANKS = re.compile(r"\s+")
_BESIDE_SIGNS = re.compile(r" ?([^\w\s]) ?")
_SIGNS = re.compile(r"\W+")
# Odd constants near 2**64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, 6.4) and of splitmix64.
_STEP, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def comparable(text: str) -> str:
    """A text without what does not tell it from others: case, compatibility forms, white space around signs and in excess of one blank."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _BESIDE_SIGNS.sub(r"\1", _BLANKS.sub(" ", folded)).strip()


def _words(text: str) -> str:
    """The comparable form without signs, unless it is nothing else: a sign at the end makes no other text."""
    form = comparable(text)
    return _SIGNS.sub(" ", form).strip() or form


def key_of(text: str) -> int:
    """64 bits by which texts with the same comparable form are known."""
    raw = comparable(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")


class TextVectors:
    """Makes vectors of inputs; those of inputs with several texts stand beside each other, and count alike.

    N-grams weigh their number in the text times the logarithm of how rare they are among texts, and are added or subtracted
    in one of `WIDTH` places by their hash (Weinberger et al., arXiv 0902.2206), which keeps inner products in expectation.

    Args:
        sample: The texts of inputs among which n-grams are rare or frequent.
    """

    def __init__(self, sample: Sequence[Sequence[str]]) -> None:
        self._weights = [_rarity(texts) for texts in zip(*sample, strict=True)]

    def __call__(self, inputs: Sequence[Sequence[str]]) -> Float32:
        """Vectors of inputs, float32 [inputs, texts of an input * WIDTH], of length 1."""
        if not inputs:
            return np.zeros((0, len(self._weights) * WIDTH), np.float32)
        parts = [
            _embed(texts, weights) for texts, weights in zip(zip(*inputs, strict=True), self._weights, strict=True)
        ]
        return np.hstack(parts) / np.float32(np.sqrt(len(parts)))


class _Grams(NamedTuple):
    """The n-grams of some texts: the number of the text, int64 [grams], and the hash of each, uint64 [grams]."""

    rows: Int64
    hashes: UInt64


def _grams(texts: Sequence[str]) -> Iterator[tuple[int, _Grams]]:
    """Yields the n-grams of a few texts at a time, with the number of the first of them."""
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        padded = [f" {_words(text[:_LONGEST])} " for text in texts[first : first + _TEXTS_AT_ONCE]]
        codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        rows = np.repeat(np.arange(len(padded)), [len(text) for text in padded])
        hashes, kept = list[UInt64](), list[Int64]()
        for length in _GRAMS:
            places = max(len(codes) - length + 1, 0)
            found = np.full(places, length, np.uint64)
            for further in range(length):
                found = (found ^ codes[further : further + places]) * _STEP
                found ^= found >> np.uint64(29)
            within = rows[:places] == rows[length - 1 :]
            hashes.append((found * _MIX)[within])
            kept.append(rows[:places][within])
        yield first, _Grams(np.concatenate(kept), np.concatenate(hashes))


def _rarity(texts: Sequence[str]) -> Float32:
    """The weight of n-grams by the first bits of their hashes: float32 [2**_FREQUENCY_BITS], smoothed as scikit-learn does it."""
    counts = np.zeros(1 << _FREQUENCY_BITS, np.float32)
    for _, grams in _grams(texts):
        seen = np.unique((grams.rows << _FREQUENCY_BITS) | _table_places(grams.hashes))
        counts += np.bincount(seen & ((1 << _FREQUENCY_BITS) - 1), minlength=len(counts)).astype(np.float32)
    return np.asarray(np.log((1 + len(texts)) / (1 + counts)) + 1, np.float32)


def _table_places(hashes: UInt64) -> Int64:
    return (hashes >> np.uint64(64 - _FREQUENCY_BITS)).astype(np.int64)


def _embed(texts: Sequence[str], weights: Float32) -> Float32:
    vectors = np.zeros((len(texts), WIDTH), np.float32)
    for first, grams in _grams(texts):
        number = min(_TEXTS_AT_ONCE, len(texts) - first)
        low = (grams.hashes >> np.uint64(20)).astype(np.int64)  # bits that the table does not use
        signed = weights[_table_places(grams.hashes)] * np.where(low & WIDTH, 1, -1)
        sums = np.bincount(grams.rows * WIDTH + low % WIDTH, weights=signed, minlength=number * WIDTH)
        vectors[first : first + number] = sums.reshape(number, WIDTH)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
