"""Windows around two marked entities: as much of the text on both sides as the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agent.encoding import Document, Encoder
from agent.errors import RequestError
from agent.tasks.relations.marked_text import ALLOWED, MarkerError, ModelText, model_text, read_markers


def encode_marked(encoder: Encoder, texts: Sequence[str], numbers: Sequence[int] | None = None) -> list[Document]:
    """Encodes texts with two marked entities, each as one window that holds both.

    Args:
        encoder: Of the agent.
        texts: The texts.
        numbers: Their indices in the request; by default in order.

    Raises:
        RequestError: Entities of a text are not marked as they have to be, or do not fit into a window.
    """
    places = [f"inputs[{number}]" for number in (range(len(texts)) if numbers is None else numbers)]
    seen = [_model_text(text, place) for text, place in zip(texts, places, strict=True)]
    documents = encoder.encode_texts([one.text for one in seen])
    return [_around(encoder, *row) for row in zip(documents, seen, places, strict=True)]


def try_marked(encoder: Encoder, texts: Sequence[str]) -> list[Document | None]:
    """Encodes texts with two marked entities; None where no window holds both."""
    found = list[Document | None]()
    seen = [model_text(read_markers(text)) for text in texts]
    for document, one in zip(encoder.encode_texts([one.text for one in seen]), seen, strict=True):
        try:
            found.append(_around(encoder, document, one, ""))
        except RequestError:
            found.append(None)
    return found


def is_cut(document: Document) -> bool:
    """Whether the window leaves out a part of the text."""
    (window,) = document.windows
    return window.last - window.first < len(document.token_ids)


def place_of_window(first: int, last: int, length: int, room: int) -> tuple[int, int]:
    """Where a window begins and ends that holds given sub-words, and what is left of its room in equal parts on both sides of them.

    Args:
        first, last: The sub-words, at most `room`; `last` is exclusive.
        length: Of the text.
        room: Of a window.
    """
    spare = room - (last - first)
    begin = first - min(first, max(spare // 2, spare - (length - last)))
    return begin, min(length, begin + room)


def _model_text(text: str, place: str) -> ModelText:
    try:
        return model_text(read_markers(text))
    except MarkerError as error:
        raise RequestError(
            f"{place}: {error}", allowed=ALLOWED, remedy="mark both entities in the text", field=place
        ) from None


def _around(encoder: Encoder, document: Document, seen: ModelText, place: str) -> Document:
    first = int(np.searchsorted(document.ends, seen.start, side="right"))
    last = int(np.searchsorted(document.starts, seen.end, side="left"))
    if last - first > encoder.room:
        raise RequestError(
            f"{place}: from the first entity to the end of the second are {last - first} sub-words, and a window holds both",
            allowed=f"at most {encoder.room} sub-words",
            remedy="mark entities that stand nearer to each other, or train with a larger model.max_tokens",
            field=place,
        )
    if len(document.windows) == 1:
        return document
    begin, end = place_of_window(first, last, len(document.token_ids), encoder.room)
    return replace(document, windows=(encoder.window(document.token_ids.tolist(), begin, end),))
