"""Texts with hidden sub-words: what the model sees of them, and what it is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from agent.encoding import IGNORED, Document, Float32, Int64, Window
from agent.tasks.masked_language.word_masking import Bool
from agent.windows.token_vocabulary import Vocabulary


@dataclass(frozen=True)
class MaskedDocument(Document):
    """A text whose windows say which tokens the model is asked about.

    Attributes:
        vocabulary: How its sub-words are written.
    """

    vocabulary: Vocabulary | None = None

    def asked(self, index: int) -> Int64:
        """The sub-words of the text that a window is asked about: int64, ascending."""
        window = self.windows[index]
        assert window.asked is not None
        found: Int64 = np.flatnonzero(window.asked) - window.offset + window.first
        return found

    def by_place(self, outputs: Sequence[Float32]) -> Iterator[tuple[int, Float32]]:
        """Each sub-word asked about, in the order of the text, with its logits: float32 [outputs]."""
        rows = [
            (int(place), logits[row])
            for index, logits in enumerate(outputs)
            for row, place in enumerate(self.asked(index))
        ]
        yield from sorted(rows, key=lambda pair: pair[0])


def words_of(document: Document, vocabulary: Vocabulary) -> Int64:
    """The number of the word that each sub-word belongs to, int64 [sub-words]; -100 in words that are not all of ordinary sub-words."""
    firsts = np.array([first for first in document.pieces.firsts if first >= 0], np.int64)
    words = np.searchsorted(firsts, np.arange(len(document.token_ids)), side="right").astype(np.int64)
    special = words[~vocabulary.is_ordinary(document.token_ids)]
    return np.where(np.isin(words, special), IGNORED, words)


def words_by_window(document: Document, vocabulary: Vocabulary) -> list[Int64]:
    """The same for the tokens of each window, in the window that owns them; -100 elsewhere."""
    words = words_of(document, vocabulary)
    places = np.flatnonzero(words != IGNORED)
    return [document.spread(index, places, words[places]) for index in range(len(document.windows))]


def ask(document: Document, vocabulary: Vocabulary, places: Bool, *, hide: bool) -> MaskedDocument:
    """The document with questions about some of its sub-words, each in the window that owns it.

    Args:
        document: As it was encoded.
        vocabulary: Its tokenizer's.
        places: bool [sub-words], what is asked about.
        hide: Whether the mask takes their place there.
    """
    return ask_in_turns(document, vocabulary, [places], hide=hide)


def ask_in_turns(document: Document, vocabulary: Vocabulary, turns: Sequence[Bool], *, hide: bool) -> MaskedDocument:
    """The document with all its windows once for each turn, and in each questions about other sub-words; otherwise as `ask`."""
    mask_id, windows = vocabulary.mask_id if hide else None, list[Window]()
    for places in turns:
        found, ones = np.flatnonzero(places), np.ones(int(places.sum()), np.int64)
        asked = (document.spread(index, found, ones) == 1 for index in range(len(document.windows)))
        windows += [_ask(window, here, mask_id) for window, here in zip(document.windows, asked, strict=True)]
    own: dict[str, Any] = {field.name: getattr(document, field.name) for field in fields(Document)}
    return MaskedDocument(**own | {"windows": tuple(windows)}, vocabulary=vocabulary)


def _ask(window: Window, asked: Bool, mask_id: int | None) -> Window:
    ids = window.input_ids if mask_id is None else np.where(asked, mask_id, window.input_ids)
    return replace(window, input_ids=ids, asked=asked.astype(np.int64))
