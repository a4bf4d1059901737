"""Logs answered predictions in the decision store without keeping requests waiting: a bounded buffer that a thread empties."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import Field, model_validator
from pydantic_core import to_json

from agent import telemetry
from agent.config.base import Config
from agent.decisions.decision import Decision
from agent.decisions.exploration import ExploreConfig
from agent.errors import ConfigError, StoreError
from serving.feedback.explorer import Explorer
from serving.metrics import Metrics

if TYPE_CHECKING:
    from agent.decisions.store import DecisionStore

_log = logging.getLogger(__name__)
_DAY_S = 86_400.0
_EXPIRY_PERIOD_S = 3_600.0
_LONGEST_PAUSE_S = 30.0
_MIB = 1024 * 1024
# What an answered request takes in memory beside its texts, measured roughly with sys.getsizeof: per request and text, per item of an answer.
_TEXT_BYTES, _ITEM_BYTES, _CHARACTER_BYTES = 500, 300, 2
_ROWS_AT_ONCE = 1_000
_OUTCOMES = ("written", "repeated", "lost", "delayed")

Answer = Sequence[Mapping[str, Any]]


class FeedbackConfig(Config):
    """Where decisions and the feedback on them are kept."""

    store: str = Field(
        "",
        description="database for decisions, with their texts, and the feedback on them: sqlite:///FILE or "
        "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE; empty keeps none",
    )
    retention_days: float = Field(30, gt=0, description="days after which decisions and their feedback are deleted")
    accept_days: float = Field(7, gt=0, description="days for which feedback on a decision is accepted")
    flush_s: float = Field(0.5, gt=0, description="seconds between two writes of decisions to the store")
    max_pending_mib: float = Field(
        64, gt=0, description="memory for decisions that wait to be written; beyond it they are lost, and counted"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.accept_days > self.retention_days:
            raise ValueError(
                f"accept_days is {self.accept_days:g}, and decisions are deleted after retention_days={self.retention_days:g}"
            )
        return self


class Answered(NamedTuple):
    """A request as it was answered, kept until it is written.

    Attributes:
        time: Seconds since the epoch.
        request_id, key_id: Of the request.
        first: Index of the first text in its request.
        bundle: Digest of the bundle that answered.
        texts, answers: One answer for each text.
        propensities: The probability of each answer, and how it was chosen; None where all were the best ones.
    """

    time: float
    request_id: str
    key_id: str
    first: int
    bundle: str
    texts: Sequence[str]
    answers: Sequence[Answer]
    propensities: Sequence[tuple[float, str]] | None

    def decisions(self, agent: str) -> list[Decision]:
        """The rows of the log."""
        chosen = self.propensities or [(1.0, "greedy")] * len(self.texts)
        return [
            Decision(
                agent, self.request_id, self.first + place, self.time, self.bundle, self.key_id,
                str(text), to_json(answer).decode(), propensity, how,
            )
            for place, (text, answer, (propensity, how)) in enumerate(zip(self.texts, self.answers, chosen, strict=True))
        ]  # fmt: skip

    def size(self) -> int:
        """Roughly the bytes that it holds."""
        characters, items = sum(map(len, self.texts)), sum(map(len, self.answers))
        return _CHARACTER_BYTES * characters + _ITEM_BYTES * items + _TEXT_BYTES * len(self.texts)


class DecisionLog:
    """Takes answered requests on the event loop, writes them in a thread.

    Args:
        config: Where, and how much may wait.
        metrics: Where written and lost decisions are counted.
        agent: Name of the agent that answers.
        explore: How answers are drawn; default: not at all.

    Raises:
        ConfigError: The store cannot be used: its address is wrong, or what it needs is not installed.
    """

    def __init__(
        self, config: FeedbackConfig, metrics: Metrics, agent: str, *, explore: ExploreConfig | None = None
    ) -> None:
        self.explorer = Explorer(explore) if explore and explore.kind != "greedy" else None
        self.config, self.agent = config, agent
        self.store = open_store(config.store)
        self._most = config.max_pending_mib * _MIB
        self._pending: list[Answered] = []
        self._pending_bytes = self._taken_bytes = 0.0
        self._unwritten: list[Decision] = []  # taken out of `_pending`, not in the store yet
        self._writing = threading.Lock()  # a write goes on when the task that waits for it is cancelled
        self._outcomes = {name: metrics.counter(telemetry.DECISIONS, outcome=name) for name in _OUTCOMES}
        metrics.follow(telemetry.DECISIONS_PENDING_BYTES, lambda: self._pending_bytes + self._taken_bytes)

    def add(self, answered: Answered) -> None:
        """Takes a request, on the event loop; does not wait for anything."""
        size = answered.size()
        if self._pending_bytes + self._taken_bytes + size > self._most:
            self._outcomes["lost"].add(len(answered.texts))
            return
        self._pending_bytes += size
        self._pending.append(answered)

    async def keep(self) -> None:
        """Writes and deletes for as long as it runs, and what is left when it is cancelled."""
        pause, expiry = self.config.flush_s, 0.0
        try:
            while True:
                await asyncio.sleep(pause)
                written = await self.flush()
                if written and time.monotonic() >= expiry:
                    expiry = time.monotonic() + _EXPIRY_PERIOD_S
                    written = await asyncio.to_thread(self._expire)
                pause = self.config.flush_s if written else min(2 * pause, _LONGEST_PAUSE_S)
        finally:
            if not await self.flush():
                self._outcomes["lost"].add(len(self._unwritten))
                _log.error("%d decisions are lost: the server stops, and the store took none", len(self._unwritten))
            self.store.close()

    async def flush(self) -> bool:
        """Writes what waits now, and tells whether the store took it; what it did not take waits on."""
        pending, self._pending = self._pending, []
        self._taken_bytes, self._pending_bytes = self._taken_bytes + self._pending_bytes, 0
        tally = await asyncio.to_thread(self._write, pending)
        for outcome, number in tally.items():
            self._outcomes[outcome].add(number)
        if tally["delayed"]:
            return False
        self._taken_bytes = 0
        return True

    def _write(self, pending: Sequence[Answered]) -> Counter[str]:
        tally: Counter[str] = Counter()
        with self._writing:
            self._unwritten += [decision for answered in pending for decision in answered.decisions(self.agent)]
            try:
                while batch := self._unwritten[:_ROWS_AT_ONCE]:
                    written = self.store.write(batch)
                    del self._unwritten[:_ROWS_AT_ONCE]
                    tally.update(written=written.new, repeated=written.known, lost=written.refused)
            except StoreError as error:
                tally["delayed"] = 1
                _log.error("%d decisions wait to be written: %s", len(self._unwritten), error)
        if tally["lost"]:
            _log.error("%d decisions are lost: the store refuses their values", tally["lost"])
        return tally

    def _expire(self) -> bool:
        try:
            deleted = self.store.delete_before(time.time() - self.config.retention_days * _DAY_S)
        except StoreError as error:
            _log.error("decisions older than %g days were not deleted: %s", self.config.retention_days, error)
            return False
        if deleted:
            _log.info("%d decisions older than %g days were deleted", deleted, self.config.retention_days)
        return True


def open_store(url: str) -> DecisionStore:
    """Opens a store of decisions; imports SQLAlchemy only then.

    Raises:
        ConfigError: Its address is wrong, or what it needs is not installed.
    """
    try:
        from agent.decisions.store import DecisionStore
    except ImportError as error:
        raise ConfigError(
            f"feedback.store is set, and {error.name} is not installed",
            remedy="pip install 'bert-agent[feedback]', or leave feedback.store empty",
        ) from None
    return DecisionStore(url)
