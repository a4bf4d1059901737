"""From texts to answers on one event loop: admits requests, chooses the version that answers, counts what comes of them.

A second version of the agent can stand beside the first: as a candidate it answers a part of the requests, then it takes
over or leaves; requests that it fails are answered by the first (serving/ray_serve/rollout.py decides).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from agent import telemetry
from agent.errors import RequestError
from agent.tasks import Parameters
from agent.tasks.governed.governed_tasks import abstains
from serving.feedback.decision_log import Answered, DecisionLog
from serving.inference.served_engine import ServedEngine
from serving.metrics import Metrics
from serving.scheduling.batch_scheduler import BatchScheduler
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.model_version import ModelVersion
from serving.scheduling.prediction import Answers, Outcome, Prediction, Shared, Wanted
from serving.scheduling.refusals import OverloadError, reason_of
from serving.scheduling.request_context import RequestContext, current
from serving.scheduling.triple_prediction import TriplePrediction
from serving.scheduling.writing.writing_prediction import WritingPrediction
from serving.shift.drift_watch import DriftConfig, open_watch

_log = logging.getLogger(__name__)

_CHARACTERS_PER_TOKEN = 6  # a guess on the high side: nothing is refused for it that need not be
_LAG_PERIOD_S = 0.1
_LONGEST_SAMPLE = 2_000  # characters; a sample is there to be compared quickly


class Predictor:
    """Answers many callers with one engine.

    Args:
        engine: What computes.
        limits: What is admitted.
        metrics: Where everything is observed.
        decisions: Where answers are logged, and how they are drawn; default: nowhere, and the best ones are given.
        num_samples: How many of the latest texts are kept in memory, for a new version to be compared on.

    Attributes:
        ready: Whether this agent is loaded and warm.
        awaited: Agents of the same server that are not there yet.
    """

    def __init__(
        self,
        engine: ServedEngine,
        limits: LimitsConfig | None = None,
        metrics: Metrics | None = None,
        *,
        decisions: DecisionLog | None = None,
        num_samples: int = 0,
    ) -> None:
        self.limits, self.metrics = limits or LimitsConfig(), metrics or Metrics()
        self._live = ModelVersion(engine, self.limits, self.metrics)
        self._candidate: ModelVersion | None = None
        self._share, self._turns = 0.0, 0
        self._drift = DriftConfig(watch=False)
        self.candidate_failures = 0
        self.samples: deque[str] = deque(maxlen=num_samples)
        self.ready = False
        self.awaited: tuple[str, ...] = ()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="text")
        self.decisions = decisions
        self._shared = Shared.of(self.metrics, self._threads, self._ended, decisions.explorer if decisions else None)
        self._texts = self.metrics.counter(telemetry.TEXTS)
        self._request_seconds = self.metrics.histogram(telemetry.REQUEST_SECONDS)
        self._announce(engine, 1)
        self.metrics.follow(telemetry.QUEUED_TOKENS, lambda: sum(queue.queued_tokens for queue in self._queues()))
        self.metrics.follow(telemetry.QUEUED_WINDOWS, lambda: sum(queue.queued_windows for queue in self._queues()))

    @property
    def engine(self) -> ServedEngine:
        """What computes, not counting a candidate."""
        return self._live.engine

    @property
    def batcher(self) -> BatchScheduler[Any]:
        """The queue, not counting a candidate's."""
        return self._live.batcher

    def warm_up(self) -> None:
        """Prepares the engine, then declares this predictor ready."""
        started = time.monotonic()
        self.engine.prepare()
        self.metrics.set(telemetry.WARMUP_SECONDS, time.monotonic() - started)
        self.ready = True

    def watch_drift(self, config: DriftConfig) -> None:
        """Looks for drift in the texts that are answered from now on, anew with each version that takes over.

        Raises:
            BundleError: What the bundle recorded cannot be read.
        """
        self._drift = config
        self._live.drift = open_watch(self.engine.bundle, config, self.metrics)

    def submit(
        self,
        texts: Sequence[str],
        parameters: Parameters,
        done: Callable[[Outcome], None],
        *,
        context: RequestContext,
        timeout_s: float | None = None,
    ) -> Prediction | None:
        """Begins to answer the texts of one request.

        Args:
            texts: At least one.
            parameters: How to answer.
            done: Told the answers or what stood against them, once and possibly before this returns: a RequestError if
                a text cannot be answered, (429) the server has too much to do or (408) the time is up.
            context: The request; its key is charged.
            timeout_s: Seconds until the caller no longer wants the answer.

        Returns:
            What can be cancelled; None if nothing was begun.
        """
        return self.begin(Wanted(texts, sum(map(len, texts)), parameters, context, done, timeout_s, time.monotonic()))

    def begin(self, wanted: Wanted) -> Prediction | None:
        """Begins to answer one request, as `submit` does."""
        texts = wanted.texts
        try:
            self.limits.check(texts, wanted.num_characters)
            wanted.context.charge(texts, wanted.num_characters)
            version = self._candidate if self._candidate and self._takes_turn() else self._live
            version.check_room()
            version.batcher.check_wait(max(map(len, texts), default=0) // _CHARACTERS_PER_TOKEN)
        except RequestError as error:
            self._failed(wanted, error)
            return None
        prediction = _prediction(wanted, version, self._shared)
        prediction.start()
        return prediction

    def cancel(self, prediction: Prediction) -> None:
        """Drops what is left to do for a caller who is gone."""
        if prediction.cancel():
            self.metrics.count(telemetry.REJECTED, reason=reason_of(asyncio.CancelledError()))

    async def predict(
        self,
        texts: Sequence[str],
        parameters: Parameters,
        *,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> Answers:
        """Answers the texts of one request, as `submit` does.

        Raises:
            RequestError: As `submit` says.
        """
        future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        prediction = self.submit(texts, parameters, done, context=context or current(), timeout_s=timeout_s)
        try:
            return await future
        except asyncio.CancelledError:
            if prediction is not None:
                self.cancel(prediction)
            raise

    def check_room(self) -> None:
        """Refuses at once what `submit` would refuse now, before its body is read.

        Raises:
            OverloadError: As many requests are answered as may be.
        """
        self._live.check_room()

    @contextmanager
    def live_version(self) -> Iterator[ModelVersion]:
        """The version that answers now, which stays until the block ends even where another one takes over.

        Raises:
            OverloadError: As many requests are answered as may be.
        """
        version = self._live
        version.check_room()
        version.enter()
        try:
            yield version
        finally:
            version.leave()

    @asynccontextmanager
    async def candidate(self, engine: ServedEngine, share: float) -> AsyncIterator[Callable[[], None]]:
        """Lets a second version answer a part of the requests inside the block; it leaves afterwards.

        Args:
            engine: The version; warm.
            share: Its part of the requests, 0 to 1.

        Yields:
            What makes the candidate take over; the version before it then answers what it began, and leaves.

        Raises:
            BundleError: What its bundle recorded to recognise drift cannot be read.
        """
        watch = await asyncio.to_thread(open_watch, engine.bundle, self._drift, self.metrics)
        candidate = ModelVersion(engine, self.limits, self.metrics)
        self._candidate, self._share, self._turns, self.candidate_failures = candidate, share, 0, 0
        leaving = candidate

        def promote() -> None:
            nonlocal leaving
            leaving, self._live, self._candidate = self._live, candidate, None
            if leaving.drift:
                leaving.drift.close()
            leaving.drift, candidate.drift = None, watch
            self._announce(leaving.engine, 0)
            self._announce(engine, 1)

        try:
            yield promote
        finally:
            self._candidate = None
            await leaving.drain()

    async def watch_loop(self) -> None:
        """Observes, for as long as it runs, for how long the event loop is held by others."""
        lag = self.metrics.histogram(telemetry.LOOP_LAG_SECONDS)
        while True:
            due = time.monotonic() + _LAG_PERIOD_S
            await asyncio.sleep(_LAG_PERIOD_S)
            lag.observe(max(0.0, time.monotonic() - due))

    def load(self) -> dict[str, float]:
        """What autoscaling looks at, since the last call: `load` (0 to 1) and `queued_s`, seconds of waiting work."""
        batchers = self._live.batchers
        load = min(1.0, sum(batcher.take_load() for batcher in batchers))
        self.metrics.set(telemetry.BUSY_RATIO, load)
        return {"load": load, "queued_s": sum(batcher.queued_s for batcher in batchers)}

    @property
    def failures_in_a_row(self) -> int:
        """Batches that failed one after the other, not counting a candidate's."""
        return max(batcher.failures_in_a_row for batcher in self._live.batchers)

    def close(self) -> None:
        """Ends the threads."""
        self._live.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _ended(self, prediction: Prediction, outcome: Outcome) -> None:
        wanted = prediction.wanted
        if not isinstance(outcome, Exception):
            self._count(wanted, outcome)
            wanted.done(outcome)
            if self.decisions is not None:
                self._log_decisions(self.decisions, prediction, outcome)
        elif prediction.version is self._live or isinstance(outcome, RequestError):
            self._failed(wanted, outcome)
        else:
            self.candidate_failures += 1
            _log.error("the new version of the bundle failed; the request goes to the one before", exc_info=outcome)
            prediction.successor = successor = _prediction(wanted, self._live, self._shared)
            successor.start()

    def _log_decisions(self, log: DecisionLog, prediction: Prediction, answers: Answers) -> None:
        wanted, digest = prediction.wanted, prediction.version.engine.bundle.digest
        context, propensities = wanted.context, prediction.propensities
        key = time.time(), context.request_id, context.key_id, context.first_text, digest
        log.add(Answered(*key, wanted.texts, answers, propensities))

    def _failed(self, wanted: Wanted, error: Exception) -> None:
        if isinstance(error, OverloadError):
            wanted.context.give_back(len(wanted.texts))
        self.metrics.count(telemetry.REJECTED, reason=reason_of(error))
        wanted.done(error)

    def _count(self, wanted: Wanted, answers: Answers) -> None:
        self._texts.add(len(answers))
        self._request_seconds.observe(time.monotonic() - wanted.arrival)
        counted = self.engine.bundle.task.counted
        for answer in answers:
            if answer:
                for label, score in counted(answer):
                    self.metrics.count(telemetry.ENTITIES, label=label)
                    self.metrics.observe(telemetry.SCORES, score, label=label)
                if abstains(answer):
                    self.metrics.count(telemetry.ABSTENTIONS, label=answer[0]["label"])
        if most := self.samples.maxlen:
            self.samples.extend(text for text in wanted.texts[:most] if len(text) <= _LONGEST_SAMPLE)

    def _queues(self) -> list[BatchScheduler[Any]]:
        return [batcher for version in (self._live, self._candidate) if version for batcher in version.batchers]

    def _takes_turn(self) -> bool:
        """Every n-th request, spread evenly, goes to the candidate."""
        self._turns += 1
        return int(self._turns * self._share) > int((self._turns - 1) * self._share)

    def _announce(self, engine: ServedEngine, value: float) -> None:
        bundle = engine.bundle
        self.metrics.set(
            telemetry.INFO, value, bundle=bundle.digest[:12], task=bundle.task.kind, precision=engine.variant.precision
        )


def _prediction(wanted: Wanted, version: ModelVersion, shared: Shared) -> Prediction:
    """A prediction by an agent, by two where the version has a tagger beside it, or by one that writes."""
    writes = version.engine.bundle.task.writes
    kind = WritingPrediction if writes else TriplePrediction if version.tagger else Prediction
    return kind(wanted, version, shared)
