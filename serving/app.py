"""The Ray Serve application: `serve run serving.app:build bundle=DIR key.path=value`. One deployment, one hop.

A replica holds everything: HTTP, tokeniser, batcher and ONNX Runtime; HAProxy talks to it directly. Every further
deployment would cost a hop.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve

from agent.bundle import Bundle
from agent.config.base import load
from cluster import bundles
from cluster.file_system import is_remote
from serving.api.open_inference.grpc_service import InferenceService
from serving.api.open_inference.protocol import OpenInference
from serving.settings import AppConfig, ReplicaConfig

_log = logging.getLogger(__name__)
_MOST_CPUS = 2  # replicas of one or two cores beat wide ones on short texts (docs/serving.md)
_MORE_THAN_ADMITTED = 256  # room for /health and the like beside the requests that we admit ourselves
_UNHEALTHY_FAILURES = 5


@serve.ingress()
class Agent(InferenceService):
    """A replica: HTTP by the application that it builds, gRPC by the methods that it inherits.

    Args:
        config: What to serve; everything in it is resolved.
    """

    def __init__(self, config: AppConfig) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # requests are parallel already
        from serving.inference.engine import Engine
        from serving.metrics import Metrics, RayCopy
        from serving.middleware.middleware_stack import MiddlewareStack
        from serving.ray_serve.rollout import Rollout
        from serving.scheduling.predictor import Predictor

        cpus, self._name = config.replicas.num_cpus, config.agent_name
        assert cpus != "auto"
        engine = Engine(bundles.fetch(config.bundle), config.engine, precision=config.precision, num_cpus=cpus)
        plan = engine.best_plan()
        engine.use(plan)

        def open_engine(bundle: Bundle) -> Engine:
            return Engine(bundle, config.engine, precision=config.precision, num_cpus=cpus, plan=plan)

        replica = serve.get_replica_context().replica_id.unique_id
        metrics = Metrics(replica)
        self._front = MiddlewareStack(config, replica=replica, behind_ray=True)
        samples = config.rollout.samples if config.rollout.watch else 0
        self._predictor = Predictor(engine, config.limits, metrics, num_samples=samples)
        self._predictor.warm_up()
        super().__init__(OpenInference(self._predictor, self._name), self._front)
        self._duties = [self._predictor.watch_loop, RayCopy(metrics).keep]
        if config.rollout.watch:
            self._duties.append(Rollout(self._predictor, open_engine, config.rollout).watch)

    def __serve_build_asgi_app__(self) -> Any:
        """The HTTP surface, built in the replica because its models depend on the bundle's task."""
        from serving.api.http_app import create_app
        from serving.ray_serve.replica_metrics import ReplicaMetrics

        fleet = ReplicaMetrics(self._predictor.metrics, Agent.own_metrics.__name__)
        app = create_app(self._predictor, self._duties, name=self._name, scrape=fleet.render, front=self._front)
        self.lane = app.state.lane
        _spare_garbage_collection()
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
        failures = self._predictor.batcher.failures_in_a_row
        if failures >= _UNHEALTHY_FAILURES:
            raise RuntimeError(f"the last {failures} batches failed")


def _spare_garbage_collection() -> None:
    """Collects garbage less often than for every second request, which costs a twentieth of a busy event loop's time.

    Ray itself leaves what is there before the first request out of it (RAY_SERVE_FREEZE_GC_ON_STARTUP).
    """
    gc.set_threshold(10_000)


def build(args: Mapping[str, Any]) -> serve.Application:
    """Builds the application from `key.path=value` arguments, as `serve run` and a Serve config file's `args` give them.

    Raises:
        ConfigError: A key or value is wrong.
        BundleError: The bundle is wrong; nothing was deployed.
    """
    assignments = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in args.items()]
    config = load(AppConfig, assignments)
    if not config.auth.keys_file:
        _log.warning("auth.keys_file is not set: whoever reaches the port of Ray Serve can ask this agent")
    return application(config)


def application(config: AppConfig, *, neighbours: int = 0) -> serve.Application:
    """Builds the application from a configuration; checks the bundle first.

    Args:
        config: What to serve.
        neighbours: Other applications that need cores of this cluster as well, as far as those are dealt out by `auto`.

    Raises:
        BundleError: The bundle is wrong; nothing was deployed.
    """
    bundle = bundles.fetch(config.bundle)
    bundle.onnx_variant(config.precision)
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        _log.warning(
            "HAProxy is off, which costs most of the throughput: set RAY_SERVE_ENABLE_HA_PROXY=1 and "
            "RAY_SERVE_THROUGHPUT_OPTIMIZED=1 before Ray starts, on every node"
        )
    replicas = _resolve(config.replicas, max(1, _cluster_cpus() // (1 + neighbours)))
    # A URI stays one: every node fetches its own copy.
    place = config.bundle if is_remote(config.bundle) else str(bundle.path)
    auth = config.auth.model_copy(update={"keys_file": _absolute(config.auth.keys_file)})
    log = config.log.model_copy(update={"access": _absolute(config.log.access)})
    resolved = config.model_copy(update={"bundle": place, "replicas": replicas, "auth": auth, "log": log})
    return serve.deployment(Agent, **_options(resolved)).bind(resolved)


def _absolute(path: str) -> str:
    """A path as the builder means it, since replicas may have another working directory; nothing stays nothing."""
    return path and str(Path(path).absolute())


def _options(config: AppConfig) -> dict[str, Any]:
    replicas = config.replicas
    return {
        "name": "Agent",
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        "max_ongoing_requests": config.limits.max_concurrent_requests + _MORE_THAN_ADMITTED,
        "autoscaling_config": {
            "min_replicas": replicas.min_replicas,
            "max_replicas": replicas.max_replicas,
            "policy": {
                "policy_function": "serving.ray_serve.autoscaling:TokenLoadPolicy",
                "policy_kwargs": {"target_load": replicas.target_load, "target_queued_s": replicas.target_queued_s},
            },
            "upscale_delay_s": replicas.upscale_delay_s,
            "downscale_delay_s": replicas.downscale_delay_s,
        },
        "health_check_period_s": 10,
        "health_check_timeout_s": 30,
        "graceful_shutdown_timeout_s": replicas.graceful_shutdown_timeout_s,
        "graceful_shutdown_wait_loop_s": 1,
        "logging_config": {"enable_access_log": False},  # Ray writes a line for every request, on the event loop
        "max_surge_percent": 100,  # a new version starts beside the old one, which leaves afterwards
    }


def _resolve(replicas: ReplicaConfig, cluster_cpus: int) -> ReplicaConfig:
    """Replaces `auto` by numbers that fit into the cluster."""
    cpus = replicas.num_cpus if replicas.num_cpus != "auto" else max(1, min(_MOST_CPUS, cluster_cpus))
    most = (
        replicas.max_replicas if replicas.max_replicas != "auto" else max(replicas.min_replicas, cluster_cpus // cpus)
    )
    return ReplicaConfig.model_validate(replicas.model_dump() | {"num_cpus": cpus, "max_replicas": most})


def _cluster_cpus() -> int:
    """CPUs of the cluster if this process is connected to one, else 1: `serve run` builds before it connects."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1
