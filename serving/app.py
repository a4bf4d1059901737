"""The Ray Serve application: `serve run serving.app:build bundle=DIR key.path=value`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.config.base import load
from cluster import bundles
from cluster.file_system import is_remote
from serving.feedback.decision_log import FeedbackConfig, open_store
from serving.feedback.explorer import check_explorable
from serving.ray_serve.app_config import AppConfig, ReplicaConfig

if TYPE_CHECKING:
    from ray import serve

_log = logging.getLogger(__name__)
_MORE_THAN_ADMITTED = 256  # room for /health and the like beside the requests that we admit ourselves


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


def application(
    config: AppConfig, *, neighbours: int = 0, fill: bool = False, awaited: Sequence[str] = ()
) -> serve.Application:
    """Builds the application from a configuration; checks the bundle first.

    Args:
        config: What to serve.
        neighbours: Other applications that need cores of this cluster as well, as far as those are dealt out by `auto`.
        fill: Whether `auto` starts as many replicas as have room, instead of one that autoscaling adds to.
        awaited: Names of applications without which this one does not call the server ready.

    Raises:
        BundleError: The bundle is wrong; nothing was deployed.
    """
    from ray import serve

    from serving.ray_serve.replica import Agent

    bundle = bundles.fetch_served(config.bundle, config.entities)
    for each in filter(None, (bundle, bundle.tagger)):
        each.variant(config.precision)
    check_explorable(bundle.task, config.explore)
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        _log.warning(
            "HAProxy is off, which costs most of the throughput: set RAY_SERVE_ENABLE_HA_PROXY=1 and "
            "RAY_SERVE_THROUGHPUT_OPTIMIZED=1 before Ray starts, on every node"
        )
    replicas = _resolve(config.replicas, max(1, _cluster_cpus() // (1 + neighbours)), fill=fill)
    # A URI stays one: every node fetches its own copy.
    place, entities = (
        str(found.path) if found and not is_remote(url) else url
        for url, found in ((config.bundle, bundle), (config.entities, bundle.tagger))
    )
    auth = config.auth.model_copy(update={"keys_file": _absolute(config.auth.keys_file)})
    log = config.log.model_copy(update={"access": _absolute(config.log.access)})
    update = {"bundle": place, "entities": entities, "replicas": replicas, "auth": auth, "log": log}
    resolved = config.model_copy(update=update | {"feedback": _placed(config.feedback)})
    return serve.deployment(Agent, **_options(resolved)).bind(resolved, tuple(awaited))


def _absolute(path: str) -> str:
    """A path as the builder means it, since replicas may have another working directory; nothing stays nothing."""
    return path and str(Path(path).absolute())


def _placed(feedback: FeedbackConfig) -> FeedbackConfig:
    """The same with an absolute path for SQLite's file.

    Raises:
        ConfigError: The store cannot be used: its address is wrong, or what it needs is not installed.
    """
    if not feedback.store:
        return feedback
    open_store(feedback.store).close()
    from agent.decisions.store import absolute_url

    return feedback.model_copy(update={"store": absolute_url(feedback.store)})


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


def _resolve(replicas: ReplicaConfig, cluster_cpus: int, *, fill: bool) -> ReplicaConfig:
    """Replaces `auto` by numbers that fit into the cluster."""
    cpus = replicas.num_cpus if replicas.num_cpus != "auto" else 1
    room = max(1, cluster_cpus // cpus)
    least, most = replicas.min_replicas, replicas.max_replicas
    if most == "auto":
        most = max(room, 1 if least == "auto" else least)
    if least == "auto":
        least = min(room, most) if fill else 1
    numbers = {"num_cpus": cpus, "min_replicas": least, "max_replicas": most}
    return ReplicaConfig.model_validate(replicas.model_dump() | numbers)


def _cluster_cpus() -> int:
    """CPUs of the cluster if this process is connected to one, else 1: `serve run` builds before it connects."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1)) if ray.is_initialized() else 1
