"""Rolls out a new version of the bundle while requests are answered, and keeps the one before when the new one is no good.

A replica looks at the bundle's directory again and again. When another bundle stands there (training or compression with
the same output, or a copy), it is checked, loaded and warmed beside the old one, compared on the latest texts, and given
a part of the requests; if nothing speaks against it, it takes over. No request is lost on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from agent import telemetry
from agent.bundle import MANIFEST, Bundle
from agent.config.base import Config
from agent.errors import AgentError, BundleError
from serving.inference.served_engine import ServedEngine
from serving.scheduling.predictor import Predictor

_log = logging.getLogger(__name__)
_CANARY_CHECK_S = 0.05

Outcome = Literal["promoted", "refused", "rolled_back"]


class RolloutConfig(Config):
    """When a new version of the bundle takes over."""

    watch: bool = Field(True, description="bring in what replaces the bundle in its directory, without a restart")
    poll_s: float = Field(2, gt=0, description="seconds between two looks at the directory")
    samples: int = Field(
        256, ge=0, description="latest texts kept in memory to compare a new version on; 0 keeps and compares none"
    )
    min_agreement: float = Field(
        0.8, ge=0, le=1, description="part of those texts that it has to answer as the version before does"
    )
    canary_share: float = Field(0.1, ge=0, le=1, description="part of the requests that it answers at first; 0 skips")
    canary_s: float = Field(30, ge=0, description="seconds for which it answers that part before it takes over")
    max_failures: int = Field(0, ge=0, description="requests that it may fail meanwhile; one more sends it away")


class Rollout:
    """Watches the directory of the bundle that a predictor serves.

    Args:
        predictor: What serves.
        open_engine: Loads a verified bundle; raises an AgentError if that cannot be done.
        config: When a new version is good enough.
    """

    def __init__(
        self, predictor: Predictor, open_engine: Callable[[Bundle], ServedEngine], config: RolloutConfig
    ) -> None:
        self._predictor, self._open, self._config = predictor, open_engine, config
        self._path = predictor.engine.bundle.path
        self._tried: _State | None = None
        self.last: tuple[Outcome, str] | None = None

    async def watch(self) -> None:
        """Looks again and again."""
        while True:
            await asyncio.sleep(self._config.poll_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - the watch goes on, whatever one look meets
                _log.exception("looking for a new version of %s failed", self._path)

    async def look(self) -> Outcome | None:
        """Looks once; brings in what is new.

        Returns:
            What became of a new version; None if there is none. A refused one is tried again only when a file of it
            changes, as when it is still being copied.
        """
        state = await asyncio.to_thread(_state, self._path)
        if state is None or state == self._tried or state.digest == self._predictor.engine.bundle.digest:
            return None
        digest = state.digest
        try:
            outcome, why = await self._bring_in(digest)
        except _MovedOnError:
            return None
        except AgentError as error:
            outcome, why = "refused", str(error)
        self._tried, self.last = state, (outcome, why)
        self._predictor.metrics.count(telemetry.ROLLOUTS, outcome=outcome)
        level = logging.INFO if outcome == "promoted" else logging.ERROR
        _log.log(level, "version %s of %s was %s: %s", digest[:12], self._path, outcome.replace("_", " "), why)
        return outcome

    async def _bring_in(self, digest: str) -> tuple[Outcome, str]:
        engine = await asyncio.to_thread(self._load, digest)
        texts = list(self._predictor.samples)
        compared, agreement = await asyncio.to_thread(_compare, self._predictor.engine, engine, texts)
        if agreement < self._config.min_agreement:
            return "refused", (
                f"it answers {agreement:.1%} of the {compared} latest texts as the version before does; "
                f"rollout.min_agreement asks for {self._config.min_agreement:.1%}"
            )
        async with self._predictor.candidate(engine, self._config.canary_share) as promote:
            if await self._fails_as_canary():
                return "rolled_back", f"{self._predictor.candidate_failures} of its requests failed"
            promote()
        return "promoted", f"it answers {agreement:.1%} of the {compared} latest texts as the version before did"

    def _load(self, digest: str) -> ServedEngine:
        bundle = Bundle.load(self._path)
        old = self._predictor.engine.bundle
        if bundle.digest != digest:
            raise _MovedOnError
        if bundle.task.kind != old.task.kind:
            raise BundleError(
                f"{self._path} now holds an agent for {bundle.task.kind}",
                allowed=old.task.kind,
                remedy="serve an agent for another task as another application",
            )
        engine = self._open(bundle)
        engine.prepare()
        state = _state(self._path)
        if state is None or state.digest != digest:  # the graph or the tokenizer may be those of a still newer version
            raise _MovedOnError
        return engine

    async def _fails_as_canary(self) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._config.canary_s if self._config.canary_share else 0)
        while loop.time() < end and self._predictor.candidate_failures <= self._config.max_failures:
            await asyncio.sleep(min(_CANARY_CHECK_S, self._config.canary_s))
        return self._predictor.candidate_failures > self._config.max_failures


class _MovedOnError(Exception):
    """The directory holds yet another version by now; the next look takes that one."""


class _State(NamedTuple):
    """What tells one content of a directory from another without reading it all."""

    digest: str
    files: tuple[tuple[str, int, int], ...]


def _state(path: Path) -> _State | None:
    """What stands there now; None while that is no bundle."""
    try:
        digest = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
        stats = [(file.relative_to(path).as_posix(), file.stat()) for file in path.rglob("*")]
    except OSError:
        return None
    return _State(digest, tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)))


def _compare(old: ServedEngine, new: ServedEngine, texts: Sequence[str]) -> tuple[int, float]:
    """How many texts were compared, and the part that both versions predict alike (1 if there are none)."""
    before, after = old.labels(texts), new.labels(texts)
    same = sum(one == other for one, other in zip(before, after, strict=True))
    return len(texts), same / len(texts) if texts else 1.0
