"""Pairs of the entities that a tagger found in a text, each as a text with two marked entities, and the triples that their relations are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent.encoding import Document, Encoder
from agent.errors import RequestError
from agent.tasks.relations.entity_windows import encode_marked, try_marked
from agent.tasks.relations.marked_text import mark
from agent.tasks.relations.relation_scores import directed, relation_of

_NUM_SIGNS = 4  # sub-words that marks take at least

Answer = Sequence[Mapping[str, Any]]


class Asked(NamedTuple):
    """What the relation agent is asked about.

    Attributes:
        text: Index of the caller's text.
        pair: The entities of that text that stand as `e1` and `e2`; None for a text that the caller marked.
    """

    text: int
    pair: tuple[int, int] | None = None


class Questions(NamedTuple):
    """What the relation agent is asked about the texts of a request.

    Attributes:
        asked: What each marked text is about.
        texts: Marked texts, of the caller and of pairs.
        documents: The same, encoded.
        num_too_far: Pairs of entities that no window holds, which are not asked about.
    """

    asked: list[Asked]
    texts: list[str]
    documents: list[Document]
    num_too_far: int

    @property
    def num_pairs(self) -> int:
        """How many of the marked texts are of pairs."""
        return sum(one.pair is not None for one in self.asked)


def ask_about(
    encoder: Encoder, texts: Sequence[str], entities: Mapping[int, Answer], *, both_ways: bool, most: int | None = None
) -> Questions:
    """What is asked about texts.

    Args:
        encoder: Of the relation agent.
        texts: Of a request.
        entities: By index of a text, what a tagger found in it, in the order of the text; others are marked by the caller.
        both_ways: Whether each of two entities is asked about as `e1`; otherwise the first in the text is.
        most: Pairs that are asked about.

    Raises:
        RequestError: A text of the caller does not fit into a window (422), or there are more pairs (413).
    """
    marked = [index for index in range(len(texts)) if index not in entities]
    own = encode_marked(encoder, [texts[index] for index in marked], marked)
    found = Questions([Asked(index) for index in marked], [texts[index] for index in marked], own, 0)
    num_too_far, left = 0, most
    for index, items in entities.items():
        every = len(items) * (len(items) - 1) // 2 * (2 if both_ways else 1)
        pairs = list[tuple[int, int]]()
        for pair in _near_pairs(encoder, texts[index], items, both_ways=both_ways) if every else ():
            pairs.append(pair)
            if left is not None and len(pairs) > left:
                raise _too_many(index, len(items), most)
        left = None if left is None else left - len(pairs)
        written = [mark(texts[index], *(_place(items[number]) for number in pair)) for pair in pairs]
        fitting = 0
        for pair, text, document in zip(pairs, written, try_marked(encoder, written), strict=True):
            if document is not None:
                fitting += 1
                found.asked.append(Asked(index, pair))
                found.texts.append(text)
                found.documents.append(document)
        num_too_far += every - fitting
    return found._replace(num_too_far=num_too_far)


def triple(items: Answer, pair: tuple[int, int], label: str, score: float) -> dict[str, Any]:
    """The triple that a label says of two entities; the direction of the label tells head and tail.

    Args:
        items: The entities of the text.
        pair: Those that stand as `e1` and `e2`.
        label: Such as `Employment(e2,e1)`.
        score: Its probability.
    """
    head, tail = pair[::-1] if label.endswith("(e2,e1)") else pair
    return {"head": dict(items[head]), "relation": relation_of(label), "tail": dict(items[tail]), "score": score}


def ordered(triples: Sequence[dict[str, Any]], top_k: int | None) -> list[dict[str, Any]]:
    """The best triples first, those of equal scores in the order of the text."""
    return sorted(triples, key=lambda one: (-one["score"], one["head"]["start"], one["tail"]["start"]))[:top_k]


def asks_both_ways(labels: Sequence[str]) -> bool:
    """Whether no label says a direction, so that `e1` is the head of a relation and every entity may be it."""
    return not any(map(directed, labels))


def _place(item: Mapping[str, Any]) -> tuple[int, int]:
    return item["start"], item["end"]


def _near_pairs(encoder: Encoder, text: str, items: Answer, *, both_ways: bool) -> Iterator[tuple[int, int]]:
    """Pairs of entities that a window may hold, by the sub-words of the text without marks."""
    (document,) = encoder.encode_texts([text])
    firsts = np.searchsorted(document.ends, [item["start"] for item in items], side="right").tolist()
    lasts = np.searchsorted(document.starts, [item["end"] for item in items], side="left").tolist()
    for first in range(len(items)):
        for second in range(first + 1, len(items)):
            if lasts[second] - firsts[first] + _NUM_SIGNS > encoder.room:
                break
            yield first, second
            if both_ways:
                yield second, first


def _too_many(index: int, num_entities: int, most: int | None) -> RequestError:
    return RequestError(
        f"inputs[{index}] has {num_entities} entities, which with the texts before it make too many pairs",
        allowed=f"at most {most} pairs of entities in one request (limits.max_pairs)",
        remedy="send shorter texts or fewer of them in one request, or mark the two entities that are meant",
        status=413,
        field=f"inputs[{index}]",
    )
