"""A request for texts on its way: each is written in batches with others and is part of the answer as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from serving.inference.writing_engine import WritingEngine
from serving.scheduling.batch_scheduler import BatchScheduler, Submission
from serving.scheduling.prediction import Prediction


class WritingPrediction(Prediction):
    """The texts of one request on their way through an agent that writes; arguments as those of `Prediction`."""

    __slots__ = ()

    @property
    def _batcher(self) -> BatchScheduler[Any]:
        """The queue for what it asks for: seeded texts have one of their own, since each takes a while and makes no room."""
        seeded = self.version.seeded
        return self.version.batcher if seeded is None or self._documents[0].settings.seed is None else seeded

    def _submit(self, documents: Sequence[Any]) -> Submission:
        if (listen := self.wanted.listen) is not None:
            for job in documents:
                job.on_token = _Teller(partial(listen, job.written))
        return self._batcher.submit(documents, self)

    def deliver(self, place: int, output: Any) -> None:
        """Takes a text that is written."""
        if not self.over:
            self._decode(place, output)

    def _decode_text(self, index: int, outputs: Any) -> list[dict[str, Any]]:
        engine = self.version.engine
        assert isinstance(engine, WritingEngine)
        return engine.decode(self._texts[index], outputs, self._parameters)


class _Teller:
    """Has something called on the event loop after each token, once for several where the loop is busy.

    Args:
        tell: What is called.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell, self._loop, self._is_due = tell, asyncio.get_running_loop(), False

    def __call__(self) -> None:
        """Called in the thread that writes."""
        if not self._is_due:
            self._is_due = True
            with suppress(RuntimeError):  # a loop that has ended has no callers left
                self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        self._is_due = False
        self._tell()
