"""The metrics of all replicas of this application in one page: whichever replica is scraped asks the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ray import serve

from serving.metrics import Metrics, rendered

_log = logging.getLogger(__name__)
_PATIENCE_S = 2.0  # Prometheus gives up after 10 s


class ReplicaMetrics:
    """The replicas of the application that this process is one of.

    Args:
        metrics: What this replica counted.
        method: Name of the deployment's method that gives `metrics.families()` of a replica.
    """

    def __init__(self, metrics: Metrics, method: str) -> None:
        context = serve.get_replica_context()
        self._metrics, self._method = metrics, method
        self._handle = serve.get_deployment_handle(context.deployment, context.app_name)

    async def render(self) -> bytes:
        """Everything in Prometheus' text format; replicas that do not answer in time are left out."""
        return rendered([self._metrics.families(), *await self._others()])

    async def _others(self) -> list[Sequence[Any]]:
        try:
            asked = self._handle.broadcast(self._method, self._metrics.replica)
            answers = await asked.results_async(timeout_s=_PATIENCE_S, return_exceptions=True)
        except TimeoutError:
            _log.warning("metrics of the other replicas are left out: no answer within %g s", _PATIENCE_S)
            return []
        for error in answers:
            if isinstance(error, BaseException):
                _log.warning("metrics of a replica are left out: %s", error)
        return [answer for answer in answers if not isinstance(answer, BaseException)]
