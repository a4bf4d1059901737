"""Refusals that depend on the server's state rather than on the request: overload, rate limit, deadline."""

from __future__ import annotations

import asyncio
from typing import Any

from agent.errors import RequestError

CALLER_LEFT = 499  # nginx's status for callers who hang up before the answer; nobody receives it
_REASONS = {401: "unauthorized", 403: "forbidden", 408: "timeout", 413: "too_large", CALLER_LEFT: "cancelled"}


class RetryLaterError(RequestError):
    """The request may be sent again later (429).

    Args:
        what: What was full or used up.
        retry_after_s: Seconds until there should be room.
        allowed: The limit, where it is one of the caller's.
    """

    reason = "overload"

    def __init__(self, what: str, *, retry_after_s: int, allowed: str = "") -> None:
        super().__init__(what, allowed=allowed, remedy=f"send the request again in {retry_after_s} s", status=429)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.what, self.retry_after_s, self.allowed)


def _restore(kind: type[RetryLaterError], what: str, retry_after_s: int, allowed: str) -> RetryLaterError:
    return kind(what, retry_after_s=retry_after_s, allowed=allowed)


class OverloadError(RetryLaterError):
    """The server has as much work waiting as it takes on."""


class RateLimitError(RetryLaterError):
    """An API key has used as many texts as it may for now."""

    reason = "rate_limited"


class DeadlineError(RequestError):
    """The caller's time was up before the answer was there; what still waited was not computed."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no answer within the {seconds:g} s that the request allowed",
            remedy="allow more time, send fewer texts in one request, or try when the server has less to do",
            status=408,
        )


def reason_of(error: BaseException) -> str:
    """The label under which a request that got no answer is counted."""
    if isinstance(error, RetryLaterError):
        return error.reason
    if isinstance(error, RequestError):
        return _REASONS.get(error.status, "invalid")
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "failed"
