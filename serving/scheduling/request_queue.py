"""The queue of waiting work: what is due first, and with which other work it shares a batch."""

from __future__ import annotations

import bisect
import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Work = TypeVar("Work")
Owner = TypeVar("Owner")

_SLOTS_PER_S = 20  # resolution of `tokens_due_by`


@dataclass(slots=True, eq=False)
class Item(Generic[Work, Owner]):
    """What waits: a window, or a text to write.

    Attributes:
        work: What is to be computed.
        owner: Whose it is.
        place: Which of its owner's works it is.
        length: In tokens.
        number: Unique, increasing with arrival.
        due: When it is to be served, in seconds of the monotonic clock.
        waits: Whether it is in the queue.
        group: Only works of one group share a batch.
    """

    work: Work
    owner: Owner
    place: int
    length: int
    number: int
    due: float
    waits: bool = True
    group: int = 0


class RequestQueue(Generic[Work, Owner]):
    """Waiting work in two orders: by group and length, and by when it is due.

    Args:
        max_batch_tokens: Budget of a batch: the greatest length times the number of items. A longer item gets a batch of its own.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        # Sorted by group, length and arrival. Numbers are unique, so items themselves are never compared.
        self._items: list[tuple[int, int, int, Item[Work, Owner]]] = []
        self._due: list[tuple[float, int, Item[Work, Owner]]] = []  # a heap, with items that wait no longer
        self._tokens_due: defaultdict[int, int] = defaultdict(int)  # by slot of time
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item[Work, Owner]) -> None:
        """Puts one in."""
        bisect.insort(self._items, (item.group, item.length, item.number, item))
        heapq.heappush(self._due, (item.due, item.number, item))
        self._tokens_due[_slot(item.due)] += item.length
        self.num_tokens += item.length

    def first(self) -> Item[Work, Owner]:
        """What is due first. The queue must not be empty."""
        while not self._due[0][-1].waits:
            heapq.heappop(self._due)
        return self._due[0][-1]

    def take(self) -> list[Item[Work, Owner]]:
        """Takes a batch out: the item that is due first and its neighbours in length of the same group. The queue must not be empty."""
        due, items = self.first(), self._items
        index = bisect.bisect_left(items, (due.group, due.length, due.number))
        first, end = _around(items, index, self._max_batch_tokens)
        batch = [entry[-1] for entry in items[first:end]]
        del items[first:end]
        self._account(batch)
        return batch

    def drop(self, owner: Owner) -> list[Item[Work, Owner]]:
        """Takes out everything of an owner."""
        dropped = [entry[-1] for entry in self._items if entry[-1].owner is owner]
        self._items = [entry for entry in self._items if entry[-1].owner is not owner]
        self._account(dropped)
        return dropped

    def tokens_due_by(self, time_s: float) -> int:
        """Tokens of all that is due by then, to a twentieth of a second."""
        last = _slot(time_s)
        return sum(tokens for slot, tokens in self._tokens_due.items() if slot <= last)

    def _account(self, items: Sequence[Item[Work, Owner]]) -> None:
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


def _around(items: Sequence[tuple[int, int, int, Item[Work, Owner]]], index: int, budget: int) -> tuple[int, int]:
    """Where a batch with one of the sorted items begins and ends: shorter neighbours first, for they do not widen it."""
    group, length = items[index][:2]
    first = max(0, index + 1 - max(1, budget // length))
    if items[first][0] < group:
        first = bisect.bisect_left(items, (group,))
    end = index + 1
    while end < len(items) and items[end][0] == group and items[end][1] * (end + 1 - first) <= budget:
        end += 1
    return first, end
