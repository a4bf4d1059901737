"""Raw text -> overlapping windows of sub-words -> back to characters. Nothing is cut off.

A document longer than the model becomes several windows that overlap by `stride` sub-words. Every sub-word of the
document is then read from the window in which it stands furthest from a cut, where it sees most context on both sides.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from agent.errors import BundleError, ConfigError, RequestError
from agent.segmentation import GivenWords, Offsets, Pieces, Segmentation, WordEdges, cut, of_words
from agent.windows.text_pairs import Cut, PairFrame, TextPair, check_first, cut_pair
from agent.windows.token_vocabulary import Vocabulary
from agent.windows.tokenizer_setup import agree_on_blank, ascending, check_unicode, pad_id

IGNORED = -100  # the target that torch.nn.CrossEntropyLoss leaves out by default

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

_WORDS = Segmentation()


@dataclass(frozen=True, slots=True)
class Window:
    """What the model sees at once.

    Attributes:
        input_ids: int64 [tokens], special tokens included.
        type_ids: int64 [tokens], the token types (segments).
        first, last: The window's content covers sub-words `first` to `last` (exclusive) of its document; of a pair those of its
            second text.
        offset: Position of sub-word `first` within `input_ids` (1 after a [CLS]).
        asked: int64 [tokens], 1 at tokens that the model is asked about, 0 elsewhere; None: about all.
        decodes: Whether tokens of type 1 are what a decoder writes of those before them; never with `asked` None.
    """

    input_ids: Int64
    type_ids: Int64
    first: int
    last: int
    offset: int
    asked: Int64 | None = None
    decodes: bool = False


@dataclass(frozen=True)
class Document:
    """One encoded text.

    Attributes:
        text: What was encoded.
        windows: At least one.
        token_ids: int64 [sub-words], vocabulary ids without special tokens; of a pair those of the first text, then of the second.
        offsets: Where each sub-word begins and ends as the tokenizer says; `starts` and `ends` are what it means.
        segmentation: How the text is cut into pieces.
        words: Where words that were given with the text begin and end.
        groups: Of a text encoded beside several others, how many windows each of them has.
    """

    text: str
    windows: tuple[Window, ...]
    token_ids: Int64
    offsets: Offsets
    segmentation: Segmentation
    words: WordEdges | None = None
    groups: tuple[int, ...] = ()

    @cached_property
    def pieces(self) -> Pieces:
        """What gets a label each."""
        if isinstance(self.text, GivenWords):
            return of_words(self.text.words, self.text, self.offsets)
        return cut(self.text, self.offsets, self.segmentation)

    @cached_property
    def word_pieces(self) -> Pieces | None:
        """The given words as pieces."""
        return None if self.words is None else of_words(self.words, self.text, self.offsets)

    @cached_property
    def starts(self) -> Int64:
        """int64 [sub-words], characters of the text."""
        return self._characters[0]

    @cached_property
    def ends(self) -> Int64:
        """int64 [sub-words], as `starts`, exclusive."""
        return self._characters[1]

    @cached_property
    def _characters(self) -> tuple[Int64, Int64]:
        return ascending(np.array(self.offsets, np.int64).reshape(-1, 2))

    @property
    def num_tokens(self) -> int:
        """Tokens over all windows, special ones and overlaps included: what the document costs."""
        return sum(len(window.input_ids) for window in self.windows)

    @cached_property
    def owners(self) -> Int64:
        """int64 [sub-words]: the window whose nearer cut is furthest away (a document's own ends are no cuts)."""
        if len(self.windows) == 1:
            return np.zeros(len(self.token_ids), dtype=np.int64)
        length = len(self.token_ids)
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
        rows = np.empty((len(self.token_ids), outputs[0].shape[-1]), dtype=np.float32)
        for index, (window, output) in enumerate(zip(self.windows, outputs, strict=True)):
            mine = window.first + np.flatnonzero(self.owners[window.first : window.last] == index)
            rows[mine] = output[mine - window.first + window.offset]
        return rows

    def spread(self, index: int, firsts: Int64, targets: Int64) -> Int64:
        """Targets of one window: each at its sub-word, in the window that owns it; -100 elsewhere.

        Args:
            index: Which window.
            firsts: int64 [targets], ascending sub-words.
            targets: int64 [targets].

        Returns:
            int64 [tokens of the window].
        """
        window = self.windows[index]
        spread = np.full(len(window.input_ids), IGNORED, dtype=np.int64)
        inside = slice(*np.searchsorted(firsts, (window.first, window.last)))
        mine = self.owners[firsts[inside]] == index
        spread[firsts[inside][mine] - window.first + window.offset] = targets[inside][mine]
        return spread


class Encoder:
    """A tokenizer together with the length of its model.

    Args:
        tokenizer: A fast tokenizer; its own truncation and padding are switched off, and where it puts a blank before a text,
            its offsets are made to say so.
        max_tokens: The model's length, special tokens included.
        stride: Sub-words by which neighbouring windows overlap.
        segmentation: How texts are cut into pieces.

    Attributes:
        room: Sub-words that a window of a single text holds.

    Raises:
        ConfigError: The stride leaves no room.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_tokens: int, stride: int, segmentation: Segmentation = _WORDS
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        agree_on_blank(tokenizer)
        self.tokenizer, self.max_tokens, self.stride, self.segmentation = tokenizer, max_tokens, stride, segmentation
        frame = tokenizer.encode("", add_special_tokens=True)
        self.room = max_tokens - len(frame.ids)
        if not 0 <= stride < self.room:
            raise ConfigError(
                f"stride {stride} in windows of {max_tokens} tokens, {len(frame.ids)} of them special",
                allowed=f"0 to {self.room - 1}"
                if self.room > 0
                else f"windows of at least {len(frame.ids) + 1} tokens",
                remedy="lower the stride or raise max_tokens",
            )
        probe = tokenizer.encode("a", add_special_tokens=True)
        before = next((i for i, special in enumerate(probe.special_tokens_mask) if not special), len(frame.ids))
        self._before, self._after = frame.ids[:before], frame.ids[before:]
        self._content_type = next(iter(probe.type_ids[before:]), 0)
        self._frame_types = frame.type_ids[:before], frame.type_ids[before:]
        self.pad_id = pad_id(tokenizer)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the tokenizer can say."""
        return Vocabulary.of(self.tokenizer)

    @classmethod
    def load(cls, directory: Path, *, max_tokens: int, stride: int, segmentation: Segmentation = _WORDS) -> Encoder:
        """Reads `tokenizer.json` from a directory.

        Raises:
            BundleError: The file is absent or not a tokenizer.
        """
        file = directory / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
            return cls(tokenizer, max_tokens=max_tokens, stride=stride, segmentation=segmentation)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001  # tokenizers raises bare Exception
            raise BundleError(
                f"{file} is no readable tokenizer ({error})", remedy="use a model with a fast tokenizer"
            ) from None

    def with_segmentation(self, segmentation: Segmentation) -> Encoder:
        """The same encoder with another cut into pieces."""
        other = copy.copy(self)
        other.segmentation = segmentation
        return other

    def encode_texts(
        self,
        texts: Sequence[str],
        *,
        stride: int | None = None,
        words: Sequence[WordEdges | None] | None = None,
        whole_first: str = "",
    ) -> list[Document]:
        """Encodes raw texts.

        Args:
            texts: The texts; a `TextPair` becomes windows that hold both.
            stride: Sub-words by which neighbouring windows overlap, for these texts; by default the encoder's own.
            words: Where words that belong to each text begin and end, if any do.
            whole_first: What the first text of a pair is called that has to stand whole in every window; empty where it may be cut.

        Raises:
            RequestError: A text holds lone surrogates, which are no Unicode text, the stride does not fit, or a first text.
        """
        self._check_stride(stride)
        for index, text in enumerate(texts):
            check_unicode(text, index)
        contents = [text.second if isinstance(text, TextPair) else text for text in texts]
        pairs = [index for index, text in enumerate(texts) if isinstance(text, TextPair)]
        encodings = self.tokenizer.encode_batch(contents, add_special_tokens=False)
        firsts = self.tokenizer.encode_batch([texts[index].first for index in pairs], add_special_tokens=False)  # type: ignore[attr-defined]
        first_of = dict(zip(pairs, firsts, strict=True))
        for index in pairs if whole_first else ():
            room, sizes = self.max_tokens - self._pair_frame.num_special, (len(first_of[index]), len(encodings[index]))
            check_first(*sizes, room, f"inputs[{index}].{whole_first}")
        return [
            self._pair_document(text, first_of[index], encoding, stride)
            if index in first_of
            else self._document(text, encoding, stride, words[index] if words else None)
            for index, (text, encoding) in enumerate(zip(texts, encodings, strict=True))
        ]

    def encode_beside(self, text: str, others: Sequence[str], *, stride: int | None = None) -> Document:
        """Encodes a text as the first of several pairs: one document with the windows of all, the text cut into sub-words once.

        Args:
            text: The first text of every pair.
            others: The second texts, at least one.
            stride: As in `encode_texts`.

        Raises:
            RequestError: A text holds lone surrogates, or the stride does not fit.
        """
        self._check_stride(stride)
        for index, one in enumerate([text, *others]):
            check_unicode(one, index)
        first, *seconds = self.tokenizer.encode_batch([text, *others], add_special_tokens=False)
        pairs = [self._pair_document(text, first, second, stride) for second in seconds]
        windows = tuple(window for pair in pairs for window in pair.windows)
        groups = tuple(len(pair.windows) for pair in pairs)
        return Document(text, windows, np.array(first.ids, np.int64), first.offsets, self.segmentation, groups=groups)

    def _check_stride(self, stride: int | None) -> None:
        """A wider overlap would let a short request cost any number of windows."""
        most = max(self.stride, self.room // 2)
        if stride is not None and not 0 <= stride <= most:
            raise RequestError(
                f"parameters.stride is {stride} in windows of {self.max_tokens} tokens",
                allowed=f"0 to {most}",
                remedy=f"lower it, or leave it out for {self.stride}",
                field="parameters.stride",
            )

    def _document(self, text: str, encoding: Encoding, stride: int | None, words: WordEdges | None) -> Document:
        ids = encoding.ids
        windows = self._windows(ids, self.stride if stride is None else stride)
        return Document(text, windows, np.array(ids, np.int64), encoding.offsets, self.segmentation, words)

    def _pair_document(self, text: str, first: Encoding, second: Encoding, stride: int | None) -> Document:
        overlap, lead = self.stride if stride is None else stride, len(first.ids)
        room = self.max_tokens - self._pair_frame.num_special
        cuts = cut_pair(lead, len(second.ids), room, overlap)
        windows = tuple(self._pair_window(first.ids, second.ids, one) for one in cuts)
        token_ids = np.array([*first.ids, *second.ids], np.int64)
        return Document(text, windows, token_ids, [*first.offsets, *second.offsets], self.segmentation)

    def _pair_window(self, first: list[int], second: list[int], held: Cut) -> Window:
        ids, types = self._pair_frame.fill(first[slice(*held.first)], second[slice(*held.second)])
        begin, end = (len(first) + place for place in held.second)
        offset = len(ids) - len(self._pair_frame.after) - (end - begin)
        return Window(np.array(ids, np.int64), np.array(types, np.int64), begin, end, offset)

    @cached_property
    def _pair_frame(self) -> PairFrame:
        return PairFrame.of(self.tokenizer)

    def _windows(self, ids: list[int], stride: int) -> tuple[Window, ...]:
        step = self.room - stride
        firsts = range(0, max(len(ids) - stride, 1), step)
        return tuple(self.window(ids, first, min(first + self.room, len(ids))) for first in firsts)

    def window(self, ids: list[int], first: int, last: int) -> Window:
        """The window that holds sub-words `first` to `last` (exclusive), at most `room` of them."""
        input_ids = np.array([*self._before, *ids[first:last], *self._after], np.int64)
        type_ids = np.full(len(input_ids), self._content_type, np.int64)
        type_ids[: len(self._before)], type_ids[len(self._before) + last - first :] = self._frame_types
        return Window(input_ids, type_ids, first, last, len(self._before))
