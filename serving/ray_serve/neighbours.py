"""Waits for the other agents of a server: until each of them answers, the server is not ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from serving.scheduling.predictor import Predictor

_log = logging.getLogger(__name__)
_POLL_S = 0.5


class Neighbours:
    """Keeps `awaited` of a predictor.

    Args:
        predictor: Whose server they belong to.
        names: The other agents, which are applications of the same Ray Serve.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str]) -> None:
        self._predictor = predictor
        predictor.awaited = tuple(names)

    async def watch(self) -> None:
        """Asks Ray Serve until every one of them has been seen running; what becomes of them afterwards is their own readiness."""
        while self._predictor.awaited:
            try:
                running = await asyncio.to_thread(_running)
            except Exception:  # noqa: BLE001 - of whatever Ray raises; asked again
                _log.exception("Ray Serve does not say which agents run")
                running = frozenset()
            self._predictor.awaited = tuple(name for name in self._predictor.awaited if name not in running)
            await asyncio.sleep(_POLL_S)


def _running() -> frozenset[str]:
    from ray import serve

    return frozenset(
        name for name, application in serve.status().applications.items() if application.status == "RUNNING"
    )
