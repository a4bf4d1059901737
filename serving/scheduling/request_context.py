"""What is known of one request while it is answered: each layer writes its part, reports read it at the end."""

from __future__ import annotations

import copy
import random
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar

from agent.errors import RequestError
from serving.scheduling.rate_limit import RateLimit

REQUEST_ID = "x-request-id"
_MOST_STAGES = 300
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}", re.ASCII)


class RequestContext:
    """A request and its answer.

    Args:
        request_id: The caller's, or one of ours; safe to log.
        method: Of HTTP; calls of gRPC are POST as well.
        route: As it was declared, such as `/models/{name}`.
        keeps_texts: Whether the texts themselves are wanted by a report.

    Attributes:
        client: The caller's address.
        key_id: Name of the key that the caller showed; empty where none is asked for.
        rate_limit: What the key may still use; None without a limit.
        status: Of the answer over HTTP, for gRPC the one that it would have had; 0 while there is none.
        traceparent: The caller's, by W3C Trace Context.
        first_text: Index in the request of the first text that is charged to it.
        stages: Name, start and end of what was done, on the monotonic clock; the latest ones, since a stream has any number.
    """

    __slots__ = (
        "_counts", "client", "first_text", "keeps_texts", "key_id", "method", "rate_limit", "request_id", "route",
        "seconds", "stages", "started", "status", "texts", "traceparent",
    )  # fmt: skip

    def __init__(self, request_id: str, method: str = "", route: str = "", *, keeps_texts: bool = False) -> None:
        self.request_id, self.method, self.route = request_id, method, route
        self.client = self.key_id = self.traceparent = ""
        self.rate_limit: RateLimit | None = None
        self.status = self.first_text = 0
        self._counts = [0, 0]
        self.started, self.seconds = time.monotonic(), 0.0
        self.keeps_texts = keeps_texts
        self.texts: list[str] = []
        self.stages: deque[tuple[str, float, float]] = deque(maxlen=_MOST_STAGES)

    @property
    def num_texts(self) -> int:
        """Texts that were to be predicted."""
        return self._counts[0]

    @property
    def num_characters(self) -> int:
        """Characters of these texts."""
        return self._counts[1]

    def part(self, first_text: int) -> RequestContext:
        """The same request for texts of it that are predicted by themselves: what is charged to a part is charged to all."""
        part = copy.copy(self)
        part.first_text = first_text
        return part

    def charge(self, texts: Sequence[str], num_characters: int, *, times: int = 1) -> None:
        """Counts texts that are to be predicted.

        Args:
            texts: The texts.
            num_characters: Of all of them.
            times: How often each is computed, such as with other words hidden: that often it counts against the key's limit.

        Raises:
            RateLimitError: The caller's key has none left for now.
        """
        if self.rate_limit is not None:
            self.rate_limit.take(len(texts) * times)
        self._counts[0] += len(texts)
        self._counts[1] += num_characters
        if self.keeps_texts:
            self.texts.extend(texts)

    def give_back(self, num_texts: int) -> None:
        """Takes back a charge: there was no room for the texts, or no need to compute them."""
        if self.rate_limit is not None:
            self.rate_limit.give_back(num_texts)


Report = Callable[[RequestContext], None]
"""Something that is told of every request when it is over."""

_current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def begin(context: RequestContext) -> None:
    """Makes a request the current one of this task."""
    _current.set(context)


def current() -> RequestContext:
    """The request that this task answers; a fresh one outside of any."""
    return _current.get() or RequestContext("none")


def new_id() -> str:
    """A request id that nobody else has; no secret."""
    return f"{random.getrandbits(128):032x}"


def checked_id(given: str) -> str:
    """A caller's request id.

    Raises:
        RequestError: It could break a log, or is too long for one.
    """
    if _ID.fullmatch(given):
        return given
    raise RequestError(
        f"header {REQUEST_ID} is {given[:80]!r}",
        allowed="1 to 128 of letters, digits and . _ : / + = @ -, the first a letter or digit",
        remedy="leave it out to get one",
        status=400,
        field=REQUEST_ID,
    )
