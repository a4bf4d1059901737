"""The line in which windows wait: who is due first, and with whom it shares a batch. Knows no workers, no event loop, no model."""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from agent.encoding import Window

Owner = TypeVar("Owner")

_SLOTS_PER_S = 20  # in which what is due is counted


@dataclass(order=True, slots=True)
class Item(Generic[Owner]):
    """A waiting window; sorts by length, then by arrival.

    Attributes:
        length: Tokens of the window.
        number: Nobody else's; later ones are higher.
        due: When it is to be served, in seconds of the monotonic clock.
        window: What is to be computed.
        owner: Whose it is.
        place: Which of its owner's windows it is.
        waits: Whether it is still in the line.
    """

    length: int
    number: int
    due: float = field(compare=False)
    window: Window = field(compare=False)
    owner: Owner = field(compare=False)
    place: int = field(compare=False)
    waits: bool = field(compare=False, default=True)


class RequestQueue(Generic[Owner]):
    """Waiting windows in two orders: by length, and by when they are due.

    Args:
        max_batch_tokens: Budget of a batch: longest window times windows. A longer window gets a batch of its own.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._items: list[Item[Owner]] = []  # sorted
        self._due: list[tuple[float, int, Item[Owner]]] = []  # a heap, with items that wait no longer
        self._tokens_due: defaultdict[int, int] = defaultdict(int)  # by slot of time
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item[Owner]) -> None:
        """Puts one in."""
        bisect.insort(self._items, item)
        heapq.heappush(self._due, (item.due, item.number, item))
        self._tokens_due[_slot(item.due)] += item.length
        self.num_tokens += item.length

    def take(self) -> list[Item[Owner]]:
        """Takes a batch out: the item that is due first and its neighbours in length. Not of an empty line."""
        while not self._due[0][-1].waits:
            heapq.heappop(self._due)
        index = bisect.bisect_left(self._items, self._due[0][-1])
        first, end = _around(self._items, index, self._max_batch_tokens)
        batch = self._items[first:end]
        del self._items[first:end]
        self._account(batch)
        return batch

    def drop(self, owner: Owner) -> list[Item[Owner]]:
        """Takes out what is somebody's."""
        dropped = [item for item in self._items if item.owner is owner]
        self._items = [item for item in self._items if item.owner is not owner]
        self._account(dropped)
        return dropped

    def tokens_due_by(self, time_s: float) -> int:
        """Tokens of all that is due by then, to a twentieth of a second."""
        last = _slot(time_s)
        return sum(tokens for slot, tokens in self._tokens_due.items() if slot <= last)

    def _account(self, items: Sequence[Item[Owner]]) -> None:
        """Takes items that no longer wait off the books."""
        for item in items:
            item.waits = False
            slot = _slot(item.due)
            self._tokens_due[slot] -= item.length
            if not self._tokens_due[slot]:
                del self._tokens_due[slot]
            self.num_tokens -= item.length
        if not self._items:
            self._due.clear()


def _slot(due: float) -> int:
    return int(due * _SLOTS_PER_S)


def _around(items: Sequence[Item[Owner]], index: int, budget: int) -> tuple[int, int]:
    """Where a batch with one of the sorted items begins and ends: shorter neighbours first, for they do not widen it."""
    first = max(0, index + 1 - max(1, budget // items[index].length))
    end = index + 1
    while end < len(items) and items[end].length * (end + 1 - first) <= budget:
        end += 1
    return first, end
