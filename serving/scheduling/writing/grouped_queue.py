"""Waiting texts to write, in groups that may share a batch."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic

from serving.inference.writer import WritingJob
from serving.scheduling.request_queue import Item, Owner, RequestQueue


class GroupedQueue(Generic[Owner]):
    """A queue for each group: a batch is what is due first of all, and its neighbours in length of the same group.

    Args:
        max_batch_tokens: Budget of a batch: greatest length times texts. A longer text gets a batch of its own.
    """

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._groups: dict[Hashable, RequestQueue[WritingJob, Owner]] = {}
        self.num_tokens = 0

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def add(self, item: Item[WritingJob, Owner]) -> None:
        """Puts one in."""
        group = item.work.group
        if group not in self._groups:
            self._groups[group] = RequestQueue(self._max_batch_tokens)
        self._groups[group].add(item)
        self.num_tokens += item.length

    def take(self) -> list[Item[WritingJob, Owner]]:
        """Takes a batch out. The queue must not be empty."""
        group = min(self._groups.values(), key=_first)
        batch = group.take()
        self._account()
        return batch

    def drop(self, owner: Owner) -> list[Item[WritingJob, Owner]]:
        """Takes out everything of an owner."""
        dropped = [item for group in self._groups.values() for item in group.drop(owner)]
        self._account()
        return dropped

    def tokens_due_by(self, time_s: float) -> int:
        """Tokens of all that is due by then."""
        return sum(group.tokens_due_by(time_s) for group in self._groups.values())

    def _account(self) -> None:
        self._groups = {key: group for key, group in self._groups.items() if group}
        self.num_tokens = sum(group.num_tokens for group in self._groups.values())


def _first(group: RequestQueue[WritingJob, Owner]) -> tuple[float, int]:
    item = group.first()
    return item.due, item.number
