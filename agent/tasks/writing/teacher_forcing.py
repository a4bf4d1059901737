"""Rows in which a model says each sub-word that was written from the right ones before it (teacher forcing)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agent.encoding import IGNORED, Document, Encoder, Int64, Window
from agent.errors import RequestError
from agent.windows.token_vocabulary import Vocabulary
from agent.windows.tokenizer_setup import end_id


class Piece(NamedTuple):
    """A part of a row of a decoder.

    Attributes:
        text: Cut into sub-words by itself.
        written: Whether the model has to say it, or else is given it.
        ends: Whether the token that ends a text follows.
    """

    text: str
    written: bool = False
    ends: bool = False


@dataclass(frozen=True)
class WrittenDocument(Document):
    """A text beside what is written of it, in one window: what was given and what has to be said.

    Attributes:
        vocabulary: How sub-words are written.
    """

    vocabulary: Vocabulary | None = None

    @property
    def given(self) -> Int64:
        """What an encoder reads, or what a decoder goes on with: int64 [tokens]."""
        window = self.windows[0]
        assert window.asked is not None
        first = int(window.asked.argmax())
        found: Int64 = window.input_ids[:first] if window.decodes else window.input_ids[: first + 1]
        return found

    def targets(self, index: int) -> Int64:
        """The sub-word that each token of a window stands for (of a decoder beside an encoder) or says next: int64 [tokens], else -100."""
        window = self.windows[index]
        assert window.asked is not None
        said = window.input_ids if window.decodes else np.append(window.input_ids[1:], IGNORED)
        found: Int64 = np.where(window.asked == 1, said, IGNORED)
        return found


def right_tokens(document: WrittenDocument) -> Int64:
    """The sub-words that have to be written: int64 [written tokens]."""
    said = document.targets(0)
    found: Int64 = said[said != IGNORED]
    return found


def places_said(document: WrittenDocument) -> npt.NDArray[np.bool_]:
    """Whether a decoder alone has to say the token behind each one: bool [tokens]."""
    asked = document.windows[0].asked
    assert asked is not None
    return np.asarray(asked == 1)


def encode_decoded(
    encoder: Encoder, texts: Sequence[str], written: Sequence[str], places: Sequence[str]
) -> list[WrittenDocument]:
    """Encodes texts for an encoder, each beside what its decoder writes, both as the tokenizer frames a text.

    Args:
        encoder: Source and target have its length each.
        texts: What is given.
        written: What is written of each.
        places: Of each, for messages.

    Raises:
        RequestError: A text has no sub-words or more than the model's length, or holds the token that ends a text.
    """
    end, sources, targets = end_id(encoder.tokenizer), encoder.encode_texts(texts), encoder.encode_texts(written)
    found = []
    for source, target, place in zip(sources, targets, places, strict=True):
        given, said = _framed(encoder, source), _framed(encoder, target)
        _check_end(target, encoder, end, place)
        said = said if len(said) and said[-1] == end else np.append(said, end)
        if not len(given):
            raise RequestError(f"{place}: no sub-word is left of {source.text[:80]!r}", allowed="a text", field=place)
        _check_length(len(given), encoder.max_tokens, f"{place}: the text", place)
        _check_length(len(said), encoder.max_tokens, f"{place}: the target", place)
        types = np.repeat(np.arange(2, dtype=np.int64), (len(given), len(said)))
        window = Window(
            np.concatenate([given, said]),
            types,
            0,
            len(source.token_ids),
            source.windows[0].offset,
            asked=types,
            decodes=True,
        )
        found.append(_document(encoder, source, window))
    return found


def encode_continued(encoder: Encoder, rows: Sequence[Sequence[Piece]], places: Sequence[str]) -> list[WrittenDocument]:
    """Encodes rows of a decoder alone, which begin as the tokenizer begins a text.

    Args:
        encoder: Rows have its length.
        rows: The pieces of each.
        places: Of each, for messages.

    Raises:
        RequestError: A row is longer than the model or begins with what is written, or a text holds the token that ends one.
    """
    end, documents = (
        end_id(encoder.tokenizer),
        iter(encoder.encode_texts([piece.text for row in rows for piece in row])),
    )
    frame = encoder.window([], 0, 0)
    found = []
    for row, place in zip(rows, places, strict=True):
        pieces = [(piece, next(documents)) for piece in row]
        ids, written = frame.input_ids[: frame.offset].tolist(), [False] * frame.offset
        for piece, document in pieces:
            if piece.ends:
                _check_end(document, encoder, end, place)
            own = [*document.token_ids.tolist(), *([end] if piece.ends else [])]
            ids, written = ids + own, written + [piece.written] * len(own)
        if not ids or written[0]:
            raise RequestError(
                f"{place}: no sub-word stands before what is written", allowed="a text to go on with", field=place
            )
        _check_length(len(ids), encoder.max_tokens, f"{place}: text and target together", place)
        first = pieces[0][1]
        window = Window(
            np.array(ids, np.int64), np.zeros(len(ids), np.int64), 0, len(first.token_ids), frame.offset,
            asked=np.array([*written[1:], False], np.int64),
        )  # fmt: skip
        found.append(_document(encoder, first, window))
    return found


def _framed(encoder: Encoder, document: Document) -> Int64:
    ids = document.token_ids.tolist()
    return encoder.window(ids, 0, len(ids)).input_ids


def _document(encoder: Encoder, source: Document, window: Window) -> WrittenDocument:
    return WrittenDocument(
        source.text, (window,), source.token_ids, source.offsets, source.segmentation, vocabulary=encoder.vocabulary
    )


def _check_length(length: int, most: int, what: str, place: str) -> None:
    if length > most:
        raise RequestError(
            f"{what} has {length:,} tokens, and nothing is cut off",
            allowed=f"at most {most:,}",
            remedy="shorten it, cut it into several, or raise model.max_tokens as far as the model goes",
            field=place,
        )


def _check_end(document: Document, encoder: Encoder, end: int, place: str) -> None:
    if (document.token_ids == end).any():
        raise RequestError(
            f"{place}: the text holds {encoder.tokenizer.id_to_token(end)}, which ends a text",
            allowed="texts without it",
            remedy="take it out: it is put behind every text that is written",
            field=place,
        )
