"""What is known of one request while it is answered: each layer writes its part, reports read it at the end."""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from agent.errors import RequestError
from serving.middleware.rate_limit import RateLimit

REQUEST_ID = "x-request-id"
CALLER_LEFT = 499  # nginx's status for callers who hang up before the answer; nobody receives it
_MOST_STAGES = 300
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}", re.ASCII)


@dataclass(slots=True)
class RequestContext:
    """A request and its answer.

    Args:
        request_id: The caller's, or one of ours; safe to log.
        method: Of HTTP, which calls of gRPC are as well: POST.
        route: As it was declared, such as `/models/{name}`.
        client: The caller's address.
        key_id: Name of the key that the caller showed; empty where none is asked for.
        allowance: What the key may still use; None without a limit.
        status: Of the answer over HTTP, for gRPC the one that it would have had; 0 while there is none.
        traceparent: The caller's, by W3C Trace Context.
        keeps_texts: Whether the texts themselves are wanted by a report.
        stages: Name, start and end of what was done, on the monotonic clock; the latest ones, since a stream has any number.
    """

    request_id: str
    method: str = ""
    route: str = ""
    client: str = ""
    key_id: str = ""
    allowance: RateLimit | None = None
    status: int = 0
    traceparent: str = ""
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    num_texts: int = 0
    num_characters: int = 0
    keeps_texts: bool = False
    texts: list[str] = field(default_factory=list)
    stages: deque[tuple[str, float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_STAGES))

    def charge(self, texts: Sequence[str]) -> None:
        """Counts texts that are to be predicted.

        Raises:
            RateLimitError: The caller's key has none left for now.
        """
        if self.allowance is not None:
            self.allowance.take(len(texts))
        self.num_texts += len(texts)
        self.num_characters += sum(map(len, texts))
        if self.keeps_texts:
            self.texts.extend(texts)

    def give_back(self, texts: Sequence[str]) -> None:
        """Takes back a charge: we had no room for the texts."""
        if self.allowance is not None:
            self.allowance.give_back(len(texts))


Report = Callable[[RequestContext], None]
"""Something that is told of every exchange when it is over."""

_current: ContextVar[RequestContext | None] = ContextVar("exchange", default=None)


def begin(exchange: RequestContext) -> None:
    """Makes an exchange the current one of this task."""
    _current.set(exchange)


def current() -> RequestContext:
    """The exchange that this task answers; a fresh one outside of any."""
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
