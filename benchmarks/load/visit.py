"""One server under load: checked, warmed up, then measured point by point. All servers get the same callers and texts."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.common.load_generator import Answer, Input, Inputs, LoadGenerator
from benchmarks.common.machine import busy_seconds
from benchmarks.common.server_process import Server, ServerError
from benchmarks.rivals.roster import Answers

Figures = dict[str, Any]
Entities = list[tuple[str, int, int]]


def entities_of(answer: Sequence[Mapping[str, Any]]) -> Entities:
    """Label, start and end of what was found in a text, without scores."""
    return [(item["entity_group"], item["start"], item["end"]) for item in answer]


IN_FLIGHT = 32
BATCH_TEXTS, BATCH_IN_FLIGHT = 32, 8
CURVE = (2, 4, 8, 16, 64, 128)
_START_S = 180
_WARM_UP_S = 2.0
_LEAD = 0.2  # part of a measurement in which the callers get out of step; it does not count
_LONG_SHARE, _LONG_WORDS = 20, 400  # every 20th text of the tail mix has 400 words
_LONG_BYTES = 1_200  # more than any sentence has, less than any long text


@dataclass(frozen=True)
class Plan:
    """What every server is asked.

    Attributes:
        texts: What callers draw from.
        expected: What `decide` finds in the answers to the first texts, each computed alone in process.
        seconds: Length of a measurement.
        decide: What has to be equal of a text's answer.
        batch_texts: Texts of a request of several.
        min_agreement: Of a server with other weights than our int8 graph, or with Hugging Face's decoding.
    """

    texts: Sequence[Input]
    expected: Sequence[Any]
    seconds: float
    decide: Callable[[Any], Any] = entities_of
    batch_texts: int = BATCH_TEXTS
    min_agreement: float = 0.8


class Visit:
    """Everything that is measured of a running server.

    Args:
        server: Started, perhaps not ready.
        plan: What to ask.
    """

    def __init__(self, server: Server, plan: Plan) -> None:
        self._server, self._plan, self._protocol = server, plan, server.entrant.protocol
        self._callers = self._caller(plan.texts)

    async def measure(self) -> Figures:
        """All figures.

        Raises:
            ServerError: It does not start or answers wrongly.
        """
        figures, seconds = await self._prepared(), self._plan.seconds
        figures["lone"] = await self._closed(seconds, 1)
        figures |= await self._rates()
        figures["curve"] = {str(callers): await self._closed(0.3 * seconds, callers) for callers in CURVE}
        if self._server.entrant.ours:
            figures |= await self._ours_alone(figures["single"]["per_s"])
        return figures | {"memory_bytes": self._server.memory_bytes()}

    async def measure_rates(self) -> Figures:
        """Rates of requests of one text and of several, and nothing else; raises as `measure`."""
        return await self._prepared() | await self._rates()

    async def _prepared(self) -> Figures:
        """Ready, checked and warm."""
        figures: Figures = {"ready_s": await self._until_ready(), **await self._check()}
        await self._callers.closed_loop(_WARM_UP_S, IN_FLIGHT)
        await self._callers.closed_loop(_WARM_UP_S / 2, BATCH_IN_FLIGHT, size=self._plan.batch_texts)
        return figures

    async def _rates(self) -> Figures:
        seconds, size = self._plan.seconds, self._plan.batch_texts
        return {
            "single": await self._closed(seconds, IN_FLIGHT),
            "batch": await self._closed(1.5 * seconds, BATCH_IN_FLIGHT, size=size),
        }

    async def _ours_alone(self, peak: float) -> Figures:
        """Half of the peak at a rate of its own, and a mix with long texts beside the same without."""
        seconds = self._plan.seconds
        half = await self._watched(seconds, self._callers.open_loop(seconds, peak / 2))
        mixed = await self._watched(
            2 * seconds, self._caller(with_tail(self._plan.texts)).closed_loop(2 * seconds, IN_FLIGHT)
        )
        return {
            "half": {**half[1], **summary(half[0], seconds, lead=_LEAD)},
            "tail": {**mixed[1], **summary(_short(mixed[0]), 2 * seconds, lead=_LEAD)},
        }

    async def _until_ready(self) -> float:
        begun, last = time.monotonic(), "nothing"
        while time.monotonic() - begun < _START_S:
            self._server.check_alive()
            try:
                async with asyncio.timeout(30):
                    await self._callers.answer(self._plan.texts[0])
                return time.monotonic() - begun
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                last = f"{type(error).__name__} {error}"
            if "status 422" in last:
                break
            await asyncio.sleep(0.2)
        raise ServerError(f"no answer after {time.monotonic() - begun:.0f} s ({last}): {self._server.log_tail()}")

    async def _check(self) -> Figures:
        """How many texts get the answers that the engine finds in process: alone, and several in a request."""
        expected, size = self._plan.expected, self._plan.batch_texts
        texts = list(self._plan.texts[: len(expected)])
        alone = [(await self._decisions(text))[0] for text in texts]
        together = [
            found
            for first in range(0, len(texts), size)
            for found in await self._decisions(texts[first : first + size])
        ]
        if len(together) != len(texts):
            raise ServerError(f"{len(texts)} texts in requests of {size} got {len(together)} answers")
        equal = _share(alone, expected)
        needed = 1.0 if self._server.entrant.same_code else self._plan.min_agreement
        if equal < needed:
            raise ServerError(f"only {equal:.0%} of {len(texts)} texts get the answers that the engine finds")
        return {"equal_alone": equal, f"equal_in_requests_of_{size}": _share(together, expected)}

    async def _decisions(self, inputs: Inputs) -> list[Any]:
        try:
            content = await self._callers.answer(inputs)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            raise ServerError(f"a text got no answer: {error}; log: {self._server.log_tail()}") from None
        return [self._plan.decide(answer) for answer in self._protocol.answers(content, inputs)]

    async def _closed(self, seconds: float, callers: int, *, size: int = 0) -> Figures:
        answers, use = await self._watched(seconds, self._callers.closed_loop(seconds, callers, size=size))
        return {**use, **summary(answers, seconds, lead=_LEAD)}

    async def _watched(self, seconds: float, load: Coroutine[Any, Any, list[Answer]]) -> tuple[list[Answer], Figures]:
        """Puts a load on, from the last core only; cores used by the server's parts, by the callers and by others."""
        before, busy, begun = self._server.cpu_seconds(), busy_seconds(), time.monotonic()
        own = time.process_time()
        with _on_last_core():
            answers = await load
        own, wall = time.process_time() - own, time.monotonic() - begun
        busy, after = busy_seconds() - busy, self._server.cpu_seconds()
        parts = {part: (used - before.get(part, 0)) / wall for part, used in sorted(after.items())}
        others = max(0.0, (busy - own) / wall - sum(parts.values()))
        cores = {part: round(used, 3) for part, used in parts.items() if used > 0.002}
        return answers, {"cores": cores | {"callers": round(own / wall, 3), "others": round(others, 3)}}

    def _caller(self, texts: Sequence[Input]) -> LoadGenerator:
        return LoadGenerator(self._server.port, texts, path=self._protocol.path, body=self._protocol.body)


def summary(answers: Sequence[Answer], seconds: float, *, lead: float) -> Figures:
    """Rate and latency of what ended well between the lead and the end of a measurement; everything else by its status.

    Args:
        answers: Of all requests.
        seconds: How long requests were begun.
        lead: The part of it that does not count.
    """
    start = min((answer.started for answer in answers), default=0.0)
    first, last = start + lead * seconds, start + seconds
    good = [answer for answer in answers if answer.status == 200]
    inside = sorted(answer.seconds for answer in good if first <= answer.started + answer.seconds <= last)
    bad = Counter(str(answer.status) for answer in answers if answer.status != 200)
    figures: Figures = {"per_s": len(inside) / (last - first), "answered": len(good), "errors": dict(bad)}
    return figures | {name: percentile(inside, part) for name, part in (("p50_s", 0.5), ("p99_s", 0.99))}


def percentile(ascending: Sequence[float], part: float) -> float | None:
    """The smallest value that this part of them does not exceed; None of nothing."""
    if not ascending:
        return None
    return ascending[min(len(ascending) - 1, max(0, -int(-part * len(ascending) // 1) - 1))]


def with_tail(texts: Sequence[str]) -> list[str]:
    """The texts, every twentieth in place of them one of 400 words made of its neighbours."""
    words = " ".join(texts).split()
    mixed = list(texts)
    for place in range(0, len(mixed), _LONG_SHARE):
        begin = place * 7 % max(1, len(words) - _LONG_WORDS)
        mixed[place] = " ".join(words[begin : begin + _LONG_WORDS])
    return mixed


def entities(answers: Answers) -> list[Entities]:
    """Label, start and end of what was found in each text, without scores."""
    return list(map(entities_of, answers))


def _short(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.num_bytes < _LONG_BYTES]


def _share(found: Sequence[Any], expected: Sequence[Any]) -> float:
    return statistics.mean(one == other for one, other in zip(found, expected, strict=True))


@contextmanager
def _on_last_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
