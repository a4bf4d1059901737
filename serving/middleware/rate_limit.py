"""How much a key may use: a token bucket over texts, in one replica. Knows no keys and no HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from agent.errors import RequestError


class RateLimitError(RequestError):
    """A key used more than it may for now.

    Args:
        allowed: The limit.
        retry_after_s: Seconds until it may go on.
    """

    def __init__(self, allowed: str, *, retry_after_s: int) -> None:
        super().__init__(
            "this key has used what it may for now",
            allowed=allowed,
            remedy=f"send the request again in {retry_after_s} s",
            status=429,
        )
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.allowed, self.retry_after_s)


def _restore(allowed: str, retry_after_s: int) -> RateLimitError:
    return RateLimitError(allowed, retry_after_s=retry_after_s)


class RateLimit:
    """A token bucket that may be overdrawn by its last request, so that one larger than the bucket is served at all.

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
                f"{self._rate:g} texts/s in the long run, {self._most:g} at once",
                retry_after_s=max(1, math.ceil((1 - self._level) / self._rate)),
            )
        self._level -= num_texts

    def give_back(self, num_texts: int) -> None:
        """Puts texts back that were taken and not served."""
        self._level = min(self._most, self._level + num_texts)
