"""Serves a bundle on this machine until Ctrl-C: `python serving/run.py bundle=DIR port=8000`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

if __name__ == "__main__":  # Python puts serving/ there, where our file names would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from agent.config import cli
from agent.config.base import Config
from agent.errors import ClusterError
from cluster import ClusterConfig
from cluster.process_cleanup import at_signals, ignore_signals
from serving.ray_serve.app_config import AppConfig, check_name

_log = logging.getLogger(__name__)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_USAGE = """
Serves a bundle on this machine, behind HAProxy, until Ctrl-C.

  python serving/run.py bundle=DIR [port=8000] [config.yaml] [key.path=value ...]
  python serving/run.py bundle=DIR agents={tickets: DIR2}       # more agents, at /models/NAME
  python serving/run.py bundle=RELATIONS entities=TAGGER        # text in, triples out

On a cluster: serve run serving.app:build bundle=DIR [key.path=value ...]
"""
_SERVICE = "serving.api.open_inference.inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
_MESSAGE_PER_BODY = 8  # gRPC has one limit for both directions, and answers are longer than texts


class FurtherAgent(Config):
    """A further agent: the directory of its bundle, or that with a tagger beside it."""

    bundle: str = Field(description="directory of the bundle")
    entities: str = Field("", description="directory of the tagger that finds its entities")

    @model_validator(mode="before")
    @classmethod
    def _of_directory(cls, given: Any) -> Any:
        return {"bundle": given} if isinstance(given, str) else given


class ServingConfig(AppConfig):
    """Agents served by one machine: the applications and the address they listen at."""

    agents: Mapping[str, FurtherAgent] = Field(
        default_factory=dict,
        description="further agents, {name: directory of the bundle, or {bundle: DIR, entities: DIR}}: each at /models/NAME, scaled by itself",
    )
    port: int = Field(8000, ge=1, le=65_535, description="port of the server")
    grpc_port: int = Field(0, ge=0, le=65_535, description="port for gRPC (Open Inference Protocol v2); 0 has none")
    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 lets other machines in")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)

    @field_validator("agents")
    @classmethod
    def _named(cls, agents: Mapping[str, FurtherAgent]) -> Mapping[str, FurtherAgent]:
        for name in agents:
            check_name(name)
        return agents

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.agent_name in self.agents:
            raise ValueError(
                f"two agents are called {self.agent_name!r}; give one another name with name=... or agents=..."
            )
        return self

    @property
    def apps(self) -> dict[str, AppConfig]:
        """What Ray Serve deploys, by route prefix."""
        app = AppConfig.model_validate(self.model_dump(include=set(AppConfig.model_fields)))
        others = {
            f"/models/{name}": app.model_copy(update={**agent.model_dump(), "name": name})
            for name, agent in self.agents.items()
        }
        return {"/": app, **others}


@contextmanager
def running(config: ServingConfig) -> Iterator[str]:
    """Serves inside the block on a Ray of its own; yields the server's URL. Afterwards nothing is left running.

    Raises:
        BundleError: The bundle cannot be served.
        ConfigError: The file of keys is no good, or what traces need is not installed.
        ClusterError: The port is taken, or this process or the environment already points to a Ray.
    """
    from cluster import bundles
    from serving.ray_serve.haproxy import own_haproxy

    for app in config.apps.values():  # before anything is started
        served = bundles.fetch_served(app.bundle, app.entities)
        for bundle in filter(None, (served, served.tagger)):
            bundle.variant(app.precision)
    _check_front(config)
    _check_place(config)
    with own_haproxy(max_message_bytes=_MESSAGE_PER_BODY * config.limits.max_body_bytes):
        try:
            yield _start(config)
        finally:
            with ignore_signals():
                _stop()


def main(config: ServingConfig) -> None:
    """Serves until Ctrl-C, SIGTERM, or the terminal is closed."""
    stop = threading.Event()
    at_signals(signal.default_int_handler)  # while starting: clean up as on Ctrl-C
    with running(config) as url:
        at_signals(lambda *_: stop.set())  # also while stopping: a second Ctrl-C changes nothing
        print(_greeting(url), flush=True)
        stop.wait()
        print("stopping ...", flush=True)
    print("stopped", flush=True)


def _check_place(config: ServingConfig) -> None:
    import ray

    from serving.ray_serve.haproxy import is_port_free

    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    if address or ray.is_initialized():
        where = f"Ray at {address}" if address else "a Ray that this process started"
        raise ClusterError(
            f"serving/run.py starts a Ray of its own, but {where} is in use",
            remedy="serve on that cluster with: serve run serving.app:build bundle=DIR; or unset RAY_ADDRESS",
        )
    for key, port in (("port", config.port), ("grpc_port", config.grpc_port)):
        if port and not is_port_free(config.host, port):
            raise ClusterError(
                f"cannot listen at {config.host}:{port}: the port is taken or the address is not this machine's",
                remedy=f"choose another with {key}=... or host=..., or stop what listens there",
            )


def _check_front(config: ServingConfig) -> None:
    from cluster import bundles
    from serving.feedback.decision_log import open_store
    from serving.feedback.explorer import check_explorable
    from serving.middleware.api_keys import ApiKeys
    from serving.middleware.tracing import require

    if config.auth.keys_file:
        ApiKeys(config.auth)
    elif config.host not in _LOOPBACK:
        _log.warning("auth.keys_file is not set: whoever reaches %s:%d can ask this agent", config.host, config.port)
    if config.tracing.endpoint:
        require()
    if config.feedback.store:
        open_store(config.feedback.store).close()
    for app in config.apps.values():
        if app.explore.kind != "greedy":
            check_explorable(bundles.fetch_served(app.bundle, app.entities).task, app.explore)


def _start(config: ServingConfig) -> str:
    from cluster import connect, ray_output

    connect(config.cluster)
    from ray import serve

    ray_output.divert()  # the loggers of Ray Serve too, now that they are there

    from serving.app import application

    calls = {"port": config.grpc_port, "grpc_servicer_functions": [_SERVICE]} if config.grpc_port else None
    serve.start(http_options={"host": config.host, "port": config.port}, grpc_options=calls)
    apps = config.apps
    for prefix, app in apps.items():
        awaited = tuple(config.agents) if prefix == "/" else ()
        built = application(app, neighbours=len(apps) - 1, fill=True, awaited=awaited)
        serve.run(built, name=app.agent_name, route_prefix=prefix)
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)  # noqa: S104
    return f"http://{reachable}:{config.port}"


def _stop() -> None:
    import ray
    from ray import serve

    try:
        if ray.is_initialized():
            serve.shutdown()
    finally:
        ray.shutdown()


def _greeting(url: str) -> str:
    return "\n".join(
        [
            f"serving at {url} (docs at {url}/docs); Ctrl-C stops. Try:",
            f"  curl {url} -H 'content-type: application/json' -d '{{\"inputs\": \"Anna flew from Oslo to Lima.\"}}'",
        ]
    )


if __name__ == "__main__":
    sys.exit(cli.run(ServingConfig, main, usage=_USAGE))
