"""A replica of Ray Serve: HTTP, tokenizer, batcher and ONNX Runtime in one process, to which HAProxy talks directly.

Every further deployment would cost a hop.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import Any

from ray import serve

from agent.bundle import Bundle
from cluster import bundles
from serving.api.http_app import create_app
from serving.api.open_inference.grpc_service import InferenceService
from serving.api.open_inference.protocol import OpenInference
from serving.feedback.decision_log import DecisionLog
from serving.inference.engine_choice import open_engine
from serving.inference.served_engine import ServedEngine
from serving.metrics import Metrics
from serving.middleware.middleware_stack import MiddlewareStack
from serving.ray_serve.app_config import AppConfig
from serving.ray_serve.metrics_copy import MetricsCopy
from serving.ray_serve.neighbours import Neighbours
from serving.ray_serve.replica_metrics import ReplicaMetrics
from serving.ray_serve.rollout import Rollout
from serving.scheduling.predictor import Predictor

_UNHEALTHY_FAILURES = 5


@serve.ingress()
class Agent(InferenceService):
    """A replica: HTTP by the application that it builds, gRPC by the methods that it inherits.

    Args:
        config: What to serve; everything in it is resolved.
        awaited: Further agents of this server, without which it is not ready.
    """

    def __init__(self, config: AppConfig, awaited: Sequence[str] = ()) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # requests are parallel already
        cpus, self._name = config.replicas.num_cpus, config.agent_name
        assert cpus != "auto"
        served = bundles.fetch_served(config.bundle, config.entities)
        engine = open_engine(served, config.engine, precision=config.precision, num_cpus=cpus)
        plan = engine.best_plan()
        engine.use(plan)

        def open_version(bundle: Bundle) -> ServedEngine:
            beside = bundle.beside(served.tagger) if served.tagger else bundle
            return open_engine(beside, config.engine, precision=config.precision, num_cpus=cpus, plan=plan)

        replica = serve.get_replica_context().replica_id.unique_id
        metrics = Metrics(replica)
        self._front = MiddlewareStack(config, replica=replica, behind_ray=True)
        samples = config.rollout.samples if config.rollout.watch else 0
        decisions = None
        if config.feedback.store:
            decisions = DecisionLog(config.feedback, metrics, self._name, explore=config.explore)
        self._predictor = Predictor(engine, config.limits, metrics, decisions=decisions, num_samples=samples)
        self._predictor.watch_drift(config.drift)
        self._predictor.warm_up()
        super().__init__(OpenInference(self._predictor, self._name), self._front)
        neighbours = Neighbours(self._predictor, awaited)
        self._duties = [self._predictor.watch_loop, MetricsCopy(metrics).keep, neighbours.watch]
        if config.rollout.watch:
            self._duties.append(Rollout(self._predictor, open_version, config.rollout).watch)

    def __serve_build_asgi_app__(self) -> Any:
        """The HTTP application, built in the replica because its models depend on the bundle's task."""
        fleet = ReplicaMetrics(self._predictor.metrics, Agent.own_metrics.__name__)
        app = create_app(self._predictor, self._duties, name=self._name, scrape=fleet.render, front=self._front)
        self.predictions = app.state.predictions
        _collect_garbage_less_often()
        return app

    async def own_metrics(self, asking: str) -> list[Any]:
        """What this replica counted, for the one that is scraped, which has its own already.

        Args:
            asking: The replica that asks.
        """
        metrics = self._predictor.metrics
        return [] if asking == metrics.replica else metrics.families()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray Serve: what `serving.ray_serve.autoscaling` looks at."""
        return self._predictor.load()

    async def check_health(self) -> None:
        """Asked by Ray Serve: a replica whose engine fails again and again is replaced."""
        failures = self._predictor.failures_in_a_row
        if failures >= _UNHEALTHY_FAILURES:
            raise RuntimeError(f"the last {failures} batches failed")


def _collect_garbage_less_often() -> None:
    """Once for 10,000 new objects instead of 700, which costs a twentieth of a busy event loop's time.

    Ray itself leaves what is there before the first request out of it (RAY_SERVE_FREEZE_GC_ON_STARTUP).
    """
    gc.set_threshold(10_000)
