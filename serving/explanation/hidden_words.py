"""Hides words of a text: replaces them by the tokenizer's mask token, or removes them; what was said of places is said of the new places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from tokenizers import Tokenizer

from agent.encoding import Encoder
from agent.segmentation import GivenWords, cut
from agent.tasks import BaseTask
from agent.tasks.base import Claim
from agent.tasks.tagged_text import trim
from agent.windows.text_pairs import TextPair

Replacement = Literal["mask", "remove"]
_NEUTRAL = ("[MASK]", "<mask>", "[UNK]", "<unk>")


class Word(NamedTuple):
    """A word of an input, or a run of neighbouring words that are hidden together.

    Attributes:
        part: Which of the texts of the input it stands in.
        start, end: Characters of that text.
        edges: Where each of the words begins and ends.
    """

    part: int
    start: int
    end: int
    edges: tuple[tuple[int, int], ...]


class _Edit(NamedTuple):
    """Characters `start` to `end` of a text become as many more as `grows` says."""

    start: int
    end: int
    grows: int


class HiddenWords:
    """One input of which any set of words can be hidden.

    Args:
        task: The agent's.
        encoder: Its tokenizer, which says what a word is.
        text: The input.
        most: Into how many runs of words it is cut at most.
        replacement: What hides a word. `mask` falls back to the unknown token, then to removing, where the tokenizer has no mask.
    """

    def __init__(
        self, task: BaseTask[Any], encoder: Encoder, text: str, *, most: int, replacement: Replacement
    ) -> None:
        self._task, self.text = task, text
        self._parts = [text.first, text.second] if isinstance(text, TextPair) else [text]
        self.token = neutral_token(encoder.tokenizer) if replacement == "mask" else ""
        edges = [_edges(part, encoder) for part in self._parts]
        self.num_words = sum(map(len, edges))
        self.words = _grouped(edges, most)

    def told(self, word: Word) -> dict[str, Any]:
        """A word as a caller reads it: its characters, their place, and which text where an input has several."""
        field = {"field": self._task.input_fields[word.part]} if len(self._parts) > 1 else {}
        return {"word": self._parts[word.part][word.start : word.end], "start": word.start, "end": word.end} | field

    def without(self, hidden: int) -> str:
        """The input with a set of its words hidden."""
        if isinstance(self.text, GivenWords):
            gone = {edge for word in self._hidden(hidden, 0) for edge in word.edges}
            words = [self.token if edge in gone else self.text[slice(*edge)] for edge in self.text.words]
            return GivenWords([word for word in words if word])
        parts = [self._edited(part, self._edits(hidden, place)) for place, part in enumerate(self._parts)]
        return TextPair(*parts) if len(parts) > 1 else parts[0]

    def moved(self, claim: Claim, hidden: int) -> Claim:
        """The same claim about the input with these words hidden."""
        if claim.span is None:
            return claim
        edits = self._edits(hidden, 0)
        start, end = (_moved(place, edits, is_end=is_end) for is_end, place in enumerate(claim.span))
        return claim._replace(span=trim(self._edited(self.text, edits), start, end))

    def sendable(self, hidden: int) -> bool:
        """Whether what is left can be asked about: no text of the input is empty."""
        text = self.without(hidden)
        return all([text.first, text.second] if isinstance(text, TextPair) else [text])

    def as_inputs(self, hidden: int) -> str | dict[str, Any]:
        """The input with these words hidden, in the form of a prediction request."""
        text = self.without(hidden)
        if isinstance(text, GivenWords):
            return {"words": [text[start:end] for start, end in text.words]}
        if isinstance(text, TextPair):
            return dict(zip(self._task.input_fields, (text.first, text.second), strict=True))
        return text

    def _hidden(self, hidden: int, part: int) -> list[Word]:
        return [word for place, word in enumerate(self.words) if word.part == part and hidden >> place & 1]

    def _edits(self, hidden: int, part: int) -> list[_Edit]:
        """Where the text of a part changes; a removed word takes the blank behind it along."""
        text, found = self._parts[part], list[_Edit]()
        for word in self._hidden(hidden, part):
            for start, end in word.edges:
                alone = start == 0 or text[start - 1].isspace()
                blank = not self.token and alone and end < len(text) and text[end].isspace()
                found.append(_Edit(start, end + blank, len(self.token) - (end + blank - start)))
        return found

    def _edited(self, text: str, edits: Sequence[_Edit]) -> str:
        pieces, done = [], 0
        for start, end, _ in edits:
            pieces += [text[done:start], self.token]
            done = end
        return "".join([*pieces, text[done:]])


def neutral_token(tokenizer: Tokenizer) -> str:
    """The token that stands for a word which is not told: the mask token, else the unknown token, else none."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    return next((name for name in _NEUTRAL if name in special), "")


def _edges(text: str, encoder: Encoder) -> Sequence[tuple[int, int]]:
    """Where the words and signs of a text begin and end."""
    if isinstance(text, GivenWords):
        return text.words
    (document,) = encoder.encode_texts([text])
    pieces = cut(text, document.offsets, encoder.segmentation.model_copy(update={"pieces": "words"}))
    return list(zip(pieces.starts, pieces.ends, strict=True))


def _grouped(parts: Sequence[Sequence[tuple[int, int]]], most: int) -> list[Word]:
    """Runs of neighbouring words of equal number, as short as `most` allows; a run lies in one text."""
    size = 1
    while sum(-(-len(edges) // size) for edges in parts) > max(most, len(parts)):
        size += 1
    return [
        Word(part, edges[first][0], edges[min(first + size, len(edges)) - 1][1], tuple(edges[first : first + size]))
        for part, edges in enumerate(parts)
        for first in range(0, len(edges), size)
    ]


def _moved(place: int, edits: Sequence[_Edit], *, is_end: int) -> int:
    """Where a place is after edits; the beginning or the end of a changed part, where it lies inside of one."""
    shift = 0
    for start, end, grows in edits:
        if place >= end:
            shift += grows
        elif place > start:
            return end + grows + shift if is_end else start + shift
    return place + shift
