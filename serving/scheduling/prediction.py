"""One prediction request from its texts to its answers: encoded, queued, decoded text by text, without a task of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

from agent import telemetry
from agent.encoding import Float32
from agent.generation.growing_text import GrowingText
from agent.tasks import Parameters
from serving.feedback.explorer import Explorer
from serving.inference.engine import Engine
from serving.inference.passes import SecondPass
from serving.metrics import Metrics
from serving.scheduling.batch_scheduler import BatchScheduler, Submission
from serving.scheduling.model_version import ModelVersion
from serving.scheduling.refusals import DeadlineError
from serving.scheduling.request_context import RequestContext

Answers = list[list[dict[str, Any]]]
Outcome = Answers | Exception
"""The answers of a request's texts, or why there are none."""

_BEST: tuple[float, str] = (1.0, "greedy")
# Encoding or decoding longer texts (some 20 microseconds per 100 characters) is left to a thread.
INLINE_CHARACTERS = 16_000


class Wanted(NamedTuple):
    """What is to be predicted for whom.

    Attributes:
        texts: At least one.
        num_characters: Of all texts together.
        parameters: How to answer.
        context: The request that the texts belong to.
        done: Told the outcome once, on the event loop.
        timeout_s: Seconds from the request's arrival after which the caller no longer wants the answers.
        arrival: When it came, on the monotonic clock.
        listen: Told, on the event loop, what is written of a text as it grows; the tokens may be several more than before.
    """

    texts: Sequence[str]
    num_characters: int
    parameters: Parameters
    context: RequestContext
    done: Callable[[Outcome], None]
    timeout_s: float | None
    arrival: float
    listen: Callable[[GrowingText], None] | None = None


class Shared(NamedTuple):
    """What all predictions of a replica share.

    Attributes:
        tokenize, decode: Seconds of these stages.
        threads: For long texts.
        metrics: For what is counted seldom.
        ended: Told of every prediction that was not cancelled.
        explorer: Draws answers; None where the best ones are given.
    """

    tokenize: Any
    decode: Any
    threads: Executor
    metrics: Metrics
    ended: Callable[[Prediction, Outcome], None]
    explorer: Explorer | None

    @classmethod
    def of(
        cls,
        metrics: Metrics,
        threads: Executor,
        ended: Callable[[Prediction, Outcome], None],
        explorer: Explorer | None = None,
    ) -> Shared:
        """Observes stages in these metrics."""
        tokenize, decode = (metrics.histogram(telemetry.STAGE_SECONDS, stage=stage) for stage in ("tokenize", "decode"))
        return cls(tokenize, decode, threads, metrics, ended, explorer)


class Prediction:
    """The texts of one request on their way through one version of the agent.

    Args:
        wanted: What is to be predicted.
        version: What predicts.
        shared: What all predictions share.
    """

    __slots__ = (
        "_answers", "_decode_s", "_documents", "_encoded_at", "_missing", "_outputs", "_parameters", "_places", "_second", "_shared",
        "_submission", "_texts", "_timer", "over", "propensities", "successor", "version", "wanted",
    )  # fmt: skip

    def __init__(self, wanted: Wanted, version: ModelVersion, shared: Shared) -> None:
        self.wanted, self.version, self._shared = wanted, version, shared
        self.successor: Prediction | None = None  # another version's, where this one failed
        self.over = False
        self.propensities = [_BEST] * len(wanted.texts) if shared.explorer else None
        self._timer: asyncio.TimerHandle | None = None
        self._submission: Submission | None = None
        self._expect(wanted.texts, wanted.parameters)
        self._decode_s = 0.0

    def start(self) -> None:
        """Encodes the texts and queues their windows."""
        self._enter()
        if self.wanted.num_characters <= INLINE_CHARACTERS:
            self._encoded(self._encode())
        else:
            future = asyncio.get_running_loop().run_in_executor(self._shared.threads, self._encode)
            future.add_done_callback(lambda done: self._encoded(done.result()))

    def deliver(self, place: int, output: Float32) -> None:
        """Takes the logits of one window; decodes its text when they are the last."""
        if self.over:
            return
        if self._places is None:
            self._decode(place, [output])
            return
        index, window = self._places[place]
        outputs = self._outputs.setdefault(index, {})
        outputs[window] = output
        if len(outputs) == len(self._documents[index].windows):
            del self._outputs[index]
            self._decode(index, [outputs[number] for number in range(len(outputs))])

    def fail(self, error: Exception) -> None:
        """Told that a batch with one of the windows failed."""
        self.end(error)

    def end(self, outcome: Outcome) -> None:
        """Ends it, whatever still waits."""
        if not self.over:
            self._leave()
            self._shared.ended(self, outcome)

    def cancel(self) -> bool:
        """Ends it without a word, since nobody waits for the answers any more; tells whether it was not over yet."""
        if self.successor is not None:
            return self.successor.cancel()
        if self.over:
            return False
        self._leave()
        return True

    def _expect(self, texts: Sequence[str], parameters: Parameters) -> None:
        """Sets what its version is asked about."""
        self._texts, self._parameters = texts, parameters
        self._answers: Answers = [[]] * len(texts)
        self._second = set[int]()  # texts that went on to the second pass
        self._missing = len(texts)

    def _enter(self) -> None:
        self.version.enter()
        if (timeout_s := self.wanted.timeout_s) is not None:
            left = max(0.0, timeout_s - (time.monotonic() - self.wanted.arrival))
            self._timer = asyncio.get_running_loop().call_later(left, self.end, DeadlineError(timeout_s))

    def _leave(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._submission is not None:
            self._batcher.withdraw(self._submission)
        self.version.leave()

    def _encode(self) -> tuple[Sequence[Any] | Exception, float, float]:
        started = time.monotonic()
        documents: Sequence[Any] | Exception
        try:
            documents = self.version.engine.encode(self._texts, self._parameters)
        except Exception as error:  # noqa: BLE001 - told to the caller
            documents = error
        return documents, started, time.monotonic()

    def _encoded(self, result: tuple[Sequence[Any] | Exception, float, float]) -> None:
        documents, started, ended = result
        if self.over:
            return
        if isinstance(documents, Exception):
            self.end(documents)
            return
        self._shared.tokenize.observe(ended - started)
        self.wanted.context.stages.append(("tokenize", started, ended))
        self._documents, self._encoded_at = documents, ended
        try:
            self._submission = self._submit(documents)
        except Exception as error:  # noqa: BLE001 - told to the caller
            self.end(error)

    @property
    def _batcher(self) -> BatchScheduler[Any]:
        """The queue of its version."""
        return self.version.batcher

    def _submit(self, documents: Sequence[Any]) -> Submission:
        """Queues what has to be computed."""
        windows = [window for document in documents for window in document.windows]
        self._places = None
        if len(windows) > len(documents):
            counts = [len(document.windows) for document in documents]
            self._places = [(index, number) for index, count in enumerate(counts) for number in range(count)]
            self._outputs: dict[int, dict[int, Float32]] = {}
        return self._batcher.submit(windows, self)

    def _decode(self, index: int, outputs: Any) -> None:
        if len(self._texts[index]) <= INLINE_CHARACTERS:
            self._decoded(index, *self._answer(index, outputs))
        else:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._shared.threads, self._answer, index, outputs)
            future.add_done_callback(lambda done: self._decoded(index, *done.result()))

    def _answer(self, index: int, outputs: Any) -> tuple[list[dict[str, Any]] | Exception | None, float]:
        started = time.monotonic()
        answer: list[dict[str, Any]] | Exception | None
        try:
            answer = self._decode_text(index, outputs)
        except Exception as error:  # noqa: BLE001 - told to the caller
            answer = error
        return answer, time.monotonic() - started

    def _decode_text(self, index: int, outputs: Any) -> list[dict[str, Any]] | None:
        """The answer; None where the first pass is not sure of the text."""
        text, document, parameters = self._texts[index], self._documents[index], self._parameters
        engine = self.version.engine
        assert isinstance(engine, Engine)
        if index not in self._second and not engine.is_sure(document, outputs):
            return None
        if (drift := self.version.drift) is not None and drift.is_due():
            drift.observe(text, document, outputs)
        if self._shared.explorer is None or self.propensities is None:
            return engine.decode(text, document, outputs, parameters)
        sampled = self._shared.explorer.answer(engine, text, document, outputs, parameters)
        self.propensities[index] = sampled.propensity, sampled.chosen
        return sampled.answer

    def _go_on(self, index: int) -> None:
        """Queues the windows of a text for the second pass."""
        assert self._submission is not None
        self._second.add(index)
        self._shared.metrics.count(telemetry.SECOND_PASS_TEXTS)
        windows = self._documents[index].windows
        first = index if self._places is None else self._places.index((index, 0))
        self._batcher.go_on(self._submission, [(first + at, SecondPass(one)) for at, one in enumerate(windows)])

    def _decoded(self, index: int, answer: list[dict[str, Any]] | Exception | None, seconds: float) -> None:
        if self.over:
            return
        if answer is None:
            self._decode_s += seconds
            self._go_on(index)
            return
        if isinstance(answer, Exception):
            self.end(answer)
            return
        self._answers[index] = answer
        self._decode_s += seconds
        self._missing -= 1
        if not self._missing:
            self._shared.decode.observe(self._decode_s)
            now = time.monotonic()
            stages, decoding = self.wanted.context.stages, now - self._decode_s
            stages.append(("queue and infer", self._encoded_at, decoding))
            stages.append(("decode", decoding, now))
            self.end(self._answers)
