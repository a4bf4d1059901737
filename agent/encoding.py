"""Words or raw text -> overlapping windows of sub-words -> back to words and characters. Nothing is cut off.

A document longer than the model becomes several windows that overlap by `stride` sub-words. Every sub-word of the
document is then read from the window in which it stands furthest from a cut, where it sees most context on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, pre_tokenizers

from agent.errors import BundleError, ConfigError, RequestError

IGNORED = -100  # the target that torch.nn.CrossEntropyLoss leaves out by default

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """What the model sees at once.

    Attributes:
        input_ids: int64 [tokens], special tokens included.
        type_ids: int64 [tokens], the token types (segments).
        first, last: The window's content covers sub-words `first` to `last` (exclusive) of its document.
        offset: Position of sub-word `first` within `input_ids` (1 after a [CLS]).
    """

    input_ids: Int64
    type_ids: Int64
    first: int
    last: int
    offset: int


@dataclass(frozen=True)
class Document:
    """One encoded text or word sequence.

    Attributes:
        windows: At least one.
        word_ids: int64 [sub-words], the word of each sub-word, ascending.
        token_ids: int64 [sub-words], vocabulary ids without special tokens.
        offsets: int64 [sub-words, 2], where each begins and ends as the tokenizer says; `starts` and `ends` are what it means.
        num_words: Words given, or words that the tokenizer found in the text.
    """

    windows: tuple[Window, ...]
    word_ids: Int64
    token_ids: Int64
    offsets: Int64
    num_words: int

    @cached_property
    def starts(self) -> Int64:
        """int64 [sub-words], characters: of the text, or of the word when words were given."""
        return self._characters[0]

    @cached_property
    def ends(self) -> Int64:
        """int64 [sub-words], as `starts`, exclusive."""
        return self._characters[1]

    @cached_property
    def _characters(self) -> tuple[Int64, Int64]:
        return _characters(self.offsets, self.word_ids)

    @property
    def num_tokens(self) -> int:
        """Tokens over all windows, special ones and overlaps included: what the document costs."""
        return sum(len(window.input_ids) for window in self.windows)

    @cached_property
    def first_subwords(self) -> Int64:
        """int64 [words that have any]: the index of each word's first sub-word."""
        begins = self.word_ids >= 0
        begins[1:] &= self.word_ids[1:] != self.word_ids[:-1]
        return np.flatnonzero(begins)

    @cached_property
    def owners(self) -> Int64:
        """int64 [sub-words]: the window whose nearer cut is furthest away (a document's own ends are no cuts)."""
        if len(self.windows) == 1:
            return np.zeros(len(self.word_ids), dtype=np.int64)
        length = len(self.word_ids)
        owners, best = np.zeros(length, np.int64), np.full(length, -1, np.int64)
        for index, window in enumerate(self.windows):
            position = np.arange(window.first, window.last)
            left = position - window.first if window.first else length
            right = window.last - 1 - position if window.last < length else length
            margin, here = np.minimum(left, right), slice(window.first, window.last)
            owners[here] = np.where(margin > best[here], index, owners[here])
            best[here] = np.maximum(margin, best[here])
        return owners

    def merge(self, outputs: Sequence[Float32]) -> Float32:
        """Joins what the model said of each window.

        Args:
            outputs: One float32 [tokens (or more, padded), n] per window.

        Returns:
            float32 [sub-words, n], one row per sub-word of the document.
        """
        if len(self.windows) == 1:
            window = self.windows[0]
            return outputs[0][window.offset : window.offset + window.last - window.first]
        rows = np.empty((len(self.word_ids), outputs[0].shape[-1]), dtype=np.float32)
        for index, (window, output) in enumerate(zip(self.windows, outputs, strict=True)):
            mine = window.first + np.flatnonzero(self.owners[window.first : window.last] == index)
            rows[mine] = output[mine - window.first + window.offset]
        return rows

    def spread(self, index: int, word_targets: Int64) -> Int64:
        """Targets of one window: each word's target at its first sub-word, in the window that owns it; else -100.

        Args:
            index: Which window.
            word_targets: int64 [words].

        Returns:
            int64 [tokens of the window].
        """
        window = self.windows[index]
        targets = np.full(len(window.input_ids), IGNORED, dtype=np.int64)
        inside = slice(*np.searchsorted(self.first_subwords, (window.first, window.last)))
        firsts = self.first_subwords[inside]
        mine = firsts[self.owners[firsts] == index]
        targets[mine - window.first + window.offset] = word_targets[self.word_ids[mine]]
        return targets


class Encoder:
    """A tokenizer together with the length of its model.

    Args:
        tokenizer: A fast tokenizer; its own truncation and padding are switched off, and a byte-level one is set to
            put a space before every word, so that words given one by one become the sub-words they are in a text.
        max_tokens: The model's length, special tokens included.
        stride: Sub-words by which neighbouring windows overlap.

    Raises:
        ConfigError: The stride leaves no room.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int, stride: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _put_space_before_words(tokenizer.pre_tokenizer)
        self.tokenizer, self.max_tokens, self.stride = tokenizer, max_tokens, stride
        frame = tokenizer.encode("", add_special_tokens=True)
        self._room = max_tokens - len(frame.ids)
        if not 0 <= stride < self._room:
            raise ConfigError(
                f"stride {stride} in windows of {max_tokens} tokens, {len(frame.ids)} of them special",
                allowed=f"0 to {self._room - 1}"
                if self._room > 0
                else f"windows of at least {len(frame.ids) + 1} tokens",
                remedy="lower the stride or raise max_tokens",
            )
        probe = tokenizer.encode("a", add_special_tokens=True)
        before = next((i for i, special in enumerate(probe.special_tokens_mask) if not special), len(frame.ids))
        self._before, self._after = frame.ids[:before], frame.ids[before:]
        self._content_type = next(iter(probe.type_ids[before:]), 0)
        self._frame_types = frame.type_ids[:before], frame.type_ids[before:]
        self.pad_id = _pad_id(tokenizer)

    @classmethod
    def load(cls, directory: Path, *, max_tokens: int, stride: int) -> Encoder:
        """Reads `tokenizer.json` from a directory.

        Raises:
            BundleError: The file is absent or not a tokenizer.
        """
        file = directory / "tokenizer.json"
        try:
            return cls(Tokenizer.from_file(str(file)), max_tokens=max_tokens, stride=stride)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  # tokenizers raises bare Exception
            raise BundleError(
                f"{file} is no readable tokenizer ({error})", remedy="use a model with a fast tokenizer"
            ) from None

    def encode_words(self, documents: Sequence[Sequence[str]]) -> list[Document]:
        """Encodes documents given as words. Words without any sub-word (control characters) keep their place."""
        encodings = self.tokenizer.encode_batch(
            [list(words) for words in documents], is_pretokenized=True, add_special_tokens=False
        )
        return [self._document(encoding, len(words)) for encoding, words in zip(encodings, documents, strict=True)]

    def encode_texts(self, texts: Sequence[str], *, stride: int | None = None) -> list[Document]:
        """Encodes raw texts; words are what the tokenizer's own pre-tokenizer makes of them.

        Args:
            texts: The texts.
            stride: Sub-words by which neighbouring windows overlap, for these texts; by default the encoder's own.

        Raises:
            RequestError: A text holds lone surrogates, which are no Unicode text, or the stride does not fit.
        """
        self._check_stride(stride)
        for index, text in enumerate(texts):
            _check_unicode(text, index)
        return [
            self._document(encoding, None, stride)
            for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]

    def _check_stride(self, stride: int | None) -> None:
        """A wider overlap would let a short request cost any number of windows."""
        most = max(self.stride, self._room // 2)
        if stride is not None and not 0 <= stride <= most:
            raise RequestError(
                f"parameters.stride is {stride} in windows of {self.max_tokens} tokens",
                allowed=f"0 to {most}",
                remedy=f"lower it, or leave it out for {self.stride}",
                field="parameters.stride",
            )

    def _document(self, encoding: Encoding, num_words: int | None, stride: int | None = None) -> Document:
        words = encoding.word_ids
        word_ids = np.array([-1 if word is None else word for word in words] if None in words else words, np.int64)
        ids = encoding.ids
        if num_words is None:
            num_words = int(word_ids.max(initial=-1)) + 1
        windows = self._windows(ids, self.stride if stride is None else stride)
        offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        return Document(windows, word_ids, np.array(ids, np.int64), offsets, num_words)

    def _windows(self, ids: list[int], stride: int) -> tuple[Window, ...]:
        step = self._room - stride
        firsts = range(0, max(len(ids) - stride, 1), step)
        return tuple(self._window(ids, first, min(first + self._room, len(ids))) for first in firsts)

    def _window(self, ids: list[int], first: int, last: int) -> Window:
        input_ids = np.array([*self._before, *ids[first:last], *self._after], np.int64)
        type_ids = np.full(len(input_ids), self._content_type, np.int64)
        type_ids[: len(self._before)], type_ids[len(self._before) + last - first :] = self._frame_types
        return Window(input_ids, type_ids, first, last, len(self._before))


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded windows: input_ids, attention_mask and token_type_ids, each int64 [rows, tokens]."""

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return int(self.attention_mask.sum())


def pad(windows: Sequence[Window], pad_id: int) -> Batch:
    """Pads windows to the longest of them."""
    lengths = [len(window.input_ids) for window in windows]
    shape = (len(windows), max(lengths))
    batch = Batch(np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
    for row, (window, length) in enumerate(zip(windows, lengths, strict=True)):
        batch.input_ids[row, :length] = window.input_ids
        batch.attention_mask[row, :length] = 1
        batch.token_type_ids[row, :length] = window.type_ids
    return batch


def _pad_id(tokenizer: Tokenizer) -> int:
    for token in ("[PAD]", "<pad>", "<|padding|>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    return 0


def _characters(offsets: Int64, word_ids: Int64) -> tuple[Int64, Int64]:
    """Starts and ends of sub-words, ascending within a word.

    A byte-level sub-word that is only the space put before a text is said to lie behind the text's first character;
    it is moved before it, else the word would lose that character.
    """
    starts, ends = offsets[:, 0], offsets[:, 1]
    if (starts < ends).all() and (starts[1:] >= starts[:-1]).all():
        return starts, ends
    word_bases = word_ids * (ends.max(initial=0) + 1)
    ordered = np.minimum.accumulate((word_bases + starts)[::-1])[::-1] - word_bases
    return ordered, np.where(starts == ends, ordered, ends)


def _put_space_before_words(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> None:
    """RoBERTa's kin learn ` London` in a text; without this, training on words would show them `London`."""
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        for part in pre_tokenizer:  # type: ignore[attr-defined]  # iterates by __getitem__
            _put_space_before_words(part)
    elif isinstance(pre_tokenizer, pre_tokenizers.ByteLevel):
        pre_tokenizer.add_prefix_space = True


def _check_unicode(text: str, index: int) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"inputs[{index}] holds a lone surrogate at character {error.start}",
            allowed="Unicode text",
            remedy="replace the broken character",
            field=f"inputs[{index}]",
        ) from None
