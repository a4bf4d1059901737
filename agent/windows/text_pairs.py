"""Two texts in one input: a string that knows both, the special tokens around them, and windows over pairs longer than the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

from agent.errors import ConfigError, RequestError

SEPARATOR = "\x1e"


class TextPair(str):
    """Two texts as one string, parted by U+001E: whatever counts, logs or limits texts takes it for one.

    Args:
        first: Stands whole in every window, unless it fills more than half of one.
        second: What windows go over where both do not fit into one.
    """

    first: str
    second: str

    def __new__(cls, first: str, second: str) -> TextPair:
        """Joins them."""
        pair = super().__new__(cls, f"{first}{SEPARATOR}{second}")
        pair.first, pair.second = first, second
        return pair

    def __reduce__(self) -> tuple[type[TextPair], tuple[str, str]]:
        return TextPair, (self.first, self.second)


class Cut(NamedTuple):
    """What a window holds of two texts: sub-words `begin` to `end` (exclusive) of each."""

    first: tuple[int, int]
    second: tuple[int, int]


@dataclass(frozen=True)
class PairFrame:
    """The special tokens of a tokenizer around two texts.

    Attributes:
        before, between, after: Token ids.
        types: Token types of: before, first text, between, second text, after.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PairFrame:
        """Learns them from the tokenizer's own encoding of a pair.

        Raises:
            ConfigError: It puts nothing between two texts.
        """
        probe = tokenizer.encode("a", "a", add_special_tokens=True)
        owners, ids, types = probe.sequence_ids, probe.ids, probe.type_ids
        firsts, seconds = ([n for n, owner in enumerate(owners) if owner == which] for which in (0, 1))
        if not firsts or not seconds or seconds[0] == firsts[-1] + 1:
            raise ConfigError(
                "the tokenizer puts no special token between two texts",
                allowed="a tokenizer with a template for pairs, such as [CLS] A [SEP] B [SEP]",
                remedy="choose another model.name for this task",
            )
        parts = (slice(firsts[0]), slice(firsts[-1] + 1, seconds[0]), slice(seconds[-1] + 1, None))
        before, between, after = (tuple(ids[part]) for part in parts)
        kinds = [tuple(types[part]) for part in parts]
        return cls(before, between, after, (kinds[0], types[firsts[0]], kinds[1], types[seconds[0]], kinds[2]))

    @property
    def num_special(self) -> int:
        """Special tokens of a window."""
        return len(self.before) + len(self.between) + len(self.after)

    def fill(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids and token types of a window with these sub-words."""
        before, one, between, other, after = self.types
        ids = [*self.before, *first, *self.between, *second, *self.after]
        return ids, [*before, *[one] * len(first), *between, *[other] * len(second), *after]


def cut_pair(first: int, second: int, room: int, stride: int) -> Iterator[Cut]:
    """Windows over two texts of so many sub-words, every sub-word of one beside every one of the other.

    A text takes what the other leaves, and at least half of a window; one that does not fit into its part is cut into pieces that
    overlap by `stride`, or by half of the part where that is less.

    Args:
        first, second: Sub-words of each.
        room: Sub-words of a window, at least 2.
        stride: Overlap of neighbouring pieces.
    """
    half = room // 2
    share = first if first <= half else max(half, room - second)
    for one in _pieces(first, share, stride):
        for other in _pieces(second, room - min(first, share), stride):
            yield Cut(one, other)


def check_first(first: int, second: int, room: int, place: str) -> None:
    """Refuses a first text that `cut_pair` would cut.

    Args:
        first, second: Sub-words of each.
        room: Sub-words of a window.
        place: Of the first text in the request.

    Raises:
        RequestError: Names it.
    """
    most = max(room // 2, room - second)
    if first > most:
        raise RequestError(
            f"{place} has {first} sub-words, and stands whole in every window",
            allowed=f"at most {most} of the {room} of a window",
            remedy="shorten it",
            field=place,
        )


def _pieces(length: int, part: int, stride: int) -> Iterator[tuple[int, int]]:
    overlap = min(stride, part // 2)
    for begin in range(0, max(length - overlap, 1), max(part - overlap, 1)):
        yield begin, min(begin + part, length)
