"""Texts told while they are written, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from agent.errors import RequestError
from agent.generation.growing_text import GrowingText, WrittenToken
from agent.tasks import Parameters
from serving.scheduling.prediction import Answers, Outcome, Wanted
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import current

_log = logging.getLogger(__name__)
EVENTS = "text/event-stream"
EVENTS_CONTENT: dict[str, Any] = {
    EVENTS: {"schema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}}
}
"""What OpenAPI says of a stream: the shape of an event."""
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Events(Protocol):
    """How a text is told."""

    def token(self, token: WrittenToken) -> Any:
        """What is said of a token but the last; None if nothing is."""

    def end(self, written: GrowingText, answers: Answers) -> Sequence[Any]:
        """What is said of the last token, once the text is complete."""

    def error(self, error: RequestError | None) -> Sequence[Any]:
        """What comes last where something went wrong on the way; None stands for a fault of ours."""


class _Telling:
    """One text on its way: begins when it is made, is given up when it is closed.

    Args:
        predictor: What writes.
        text: What is given.
        parameters: Of the request.
        timeout_s: Seconds until the caller no longer wants it.
    """

    def __init__(self, predictor: Predictor, text: str, parameters: Parameters, timeout_s: float | None) -> None:
        self._predictor, self._news = predictor, asyncio.Event()
        self._written: GrowingText | None = None
        self._began_anew = False
        self._outcome: Outcome | None = None
        wanted = Wanted(
            [text], len(text), parameters, current(), self._end, timeout_s, time.monotonic(), listen=self._listen
        )
        self._prediction = predictor.begin(wanted)

    async def begun(self) -> None:
        """Waits for the first token, so that what cannot begin is refused like any request.

        Raises:
            RequestError: It is refused.
        """
        await self._news.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome

    async def told(self, events: Events) -> AsyncIterator[Any]:
        """What is to be sent."""
        sent = 0
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                outcome, written = self._outcome, self._written
                if sent and self._began_anew:
                    raise RuntimeError("the version of the agent that began this text failed")
                for token in written.tokens[sent:] if written else ():
                    sent += 1
                    is_last = written is not None and written.finish is not None and sent == len(written.numbers)
                    if not is_last and (said := events.token(token)) is not None:
                        yield said
                if isinstance(outcome, Exception):
                    raise outcome
                if outcome is not None:
                    assert written is not None
                    for said in events.end(written, outcome):
                        yield said
                    return
        except RequestError as error:
            for said in events.error(error):
                yield said
        except Exception:  # noqa: BLE001 - the caller gets no internals; the log gets the trace
            _log.exception("the stream of request %s failed", current().request_id)
            for said in events.error(None):
                yield said
        finally:
            self.close()

    def close(self) -> None:
        """Gives up what is not written yet."""
        if self._prediction is not None and self._outcome is None:
            self._predictor.cancel(self._prediction)

    def _listen(self, written: GrowingText) -> None:
        self._began_anew |= self._written not in (None, written)  # another version writes, where the first one failed
        self._written = written
        self._news.set()

    def _end(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._news.set()


async def told(
    predictor: Predictor, text: str, parameters: Parameters, events: Events, timeout_s: float | None
) -> StreamingResponse:
    """A response that tells a text while it is written; generation ends with the next token when the caller hangs up.

    Raises:
        RequestError: It is refused.
    """
    telling = _Telling(predictor, text, parameters, timeout_s)
    try:
        await telling.begun()
    except BaseException:
        telling.close()
        raise
    return StreamingResponse(_lines(telling, events), media_type=EVENTS, headers=_HEADERS)


async def _lines(telling: _Telling, events: Events) -> AsyncIterator[bytes]:
    async with aclosing(telling.told(events)) as said:  # type: ignore[type-var]
        async for one in said:
            yield b"data: " + (one.encode() if isinstance(one, str) else to_json(one)) + b"\n\n"
