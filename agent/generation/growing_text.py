"""A text while it is written, sub-word by sub-word: when it ends, and what of it may be shown already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

Finish = Literal["eos_token", "length", "stop_sequence"]
_INCOMPLETE = "\ufffd"  # what byte-level tokenizers decode to within a character


class WrittenToken(NamedTuple):
    """A sub-word that was written.

    Attributes:
        number: Its id.
        text: What it adds to the text; the text of all of them is the text.
        log_probability: After those before it.
        special: Whether it is no text, as the token that ends one.
    """

    number: int
    text: str
    log_probability: float
    special: bool


class GivenToken(NamedTuple):
    """A sub-word that a decoder was given.

    Attributes:
        number: Its id.
        log_probability: After those before it; None of the first.
    """

    number: int
    log_probability: float | None


class Limits(NamedTuple):
    """Where a text ends.

    Attributes:
        end: The token that ends it.
        max_new_tokens: That it has at most, `end` included.
        stop: Strings before which it is cut off.
    """

    end: int
    max_new_tokens: int
    stop: tuple[str, ...] = ()


class GrowingText:
    """What is written after a text, or of one.

    Args:
        tokenizer: The model's.
        limits: Where it ends.
        before: The sub-words that it goes on with, where blanks between words belong to it; none where a text begins.
        by_token: Whether the text of each token is wanted, which costs a decoding for each.

    Attributes:
        given: What a decoder was given, where somebody asks how likely that was.
    """

    def __init__(
        self, tokenizer: Tokenizer, limits: Limits, *, before: Sequence[int] = (), by_token: bool = False
    ) -> None:
        self._tokenizer, self._limits, self._before = tokenizer, limits, list(before)
        self._start = self._decode([]) if before else ""
        self._by_token, self._shown = by_token, 0
        self.given: list[GivenToken] = []
        self.numbers: list[int] = []
        self.tokens: list[WrittenToken] = []
        self.log_probability = 0.0
        self.finish: Finish | None = None

    @property
    def left(self) -> int:
        """Tokens that may still be written."""
        return self._limits.max_new_tokens - len(self.numbers)

    @property
    def text(self) -> str:
        """The whole of it, cut off before the string that stopped it."""
        whole = self._whole()
        found = self._stop_in(whole)
        return whole if found is None else whole[:found]

    def name_given(self) -> list[tuple[GivenToken, str]]:
        """The tokens of `given`, each with its own text."""
        return [(token, self._tokenizer.decode([token.number], skip_special_tokens=False)) for token in self.given]

    def add(self, number: int, log_probability: float) -> bool:
        """Takes the next token; tells whether it was the last."""
        self.numbers.append(number)
        self.log_probability += log_probability
        if number == self._limits.end:
            self.finish = "eos_token"
        elif self._limits.stop and self._stop_in(self._whole()) is not None:
            self.finish = "stop_sequence"
        elif not self.left:
            self.finish = "length"
        if self._by_token:
            special = number == self._limits.end
            self.tokens.append(WrittenToken(number, self._next_text(), log_probability, special))
        return self.finish is not None

    def take(self, numbers: Sequence[int], log_probability: float) -> None:
        """Takes all tokens at once, as beams give them."""
        self.numbers, self.log_probability = list(numbers), log_probability
        ended = bool(numbers) and numbers[-1] == self._limits.end
        self.finish = "eos_token" if ended else "length"
        if self._limits.stop and self._stop_in(self._whole()) is not None:
            self.finish = "stop_sequence"

    def _whole(self) -> str:
        whole = self._decode(self.numbers)
        return whole[len(self._start) :] if whole.startswith(self._start) else self._tokenizer.decode(self.numbers)

    def _decode(self, numbers: Sequence[int]) -> str:
        found: str = self._tokenizer.decode([*self._before, *numbers], skip_special_tokens=True)
        return found

    def _stop_in(self, whole: str) -> int | None:
        """The first place at which a stop string begins."""
        places = [place for stop in self._limits.stop if (place := whole.find(stop)) >= 0]
        return min(places, default=None)

    def _next_text(self) -> str:
        """What may be shown now and was not: nothing that may yet become another character or the beginning of a stop string."""
        text = self.text
        if self.finish is None:
            text = text.rstrip(_INCOMPLETE)
            text = text[: len(text) - max((_beginning(text, stop) for stop in self._limits.stop), default=0)]
        fresh = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return fresh


def _beginning(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string."""
    return max((size for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
