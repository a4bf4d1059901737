"""Rate limit of one API key in one replica: a token bucket over texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from serving.scheduling.refusals import RateLimitError


class RateLimit:
    """A token bucket that its last request may overdraw, so that one larger than the bucket is served at all.

    Args:
        texts_per_s: How fast it fills.
        burst_texts: How many it holds; it starts full.
        clock: Monotonic seconds.
    """

    def __init__(self, texts_per_s: float, burst_texts: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = texts_per_s, burst_texts, clock
        self._level, self._at = burst_texts, clock()

    def take(self, num_texts: int) -> None:
        """Takes texts out.

        Raises:
            RateLimitError: Not one whole text is in it; nothing was taken.
        """
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1:
            raise RateLimitError(
                "this key has used what it may for now",
                allowed=f"{self._rate:g} texts/s in the long run, {self._most:g} at once",
                retry_after_s=max(1, math.ceil((1 - self._level) / self._rate)),
            )
        self._level -= num_texts

    def overdraw(self, num_texts: int) -> None:
        """Takes texts out that belong to a request which was let in; the bucket may be left with less than none."""
        self._level -= num_texts

    def give_back(self, num_texts: int) -> None:
        """Puts texts back that were taken and not served."""
        self._level = min(self._most, self._level + num_texts)
