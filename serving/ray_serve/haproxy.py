"""The HAProxy that Ray Serve starts: its settings, a directory of its own, and its end.

Ray Serve reads all of this from environment variables when its modules are imported and when Ray's processes start
(ray/serve/_private/constants.py, ray 2.60), so it has to be said before either.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import ClusterError
from cluster.connection import usable_cores
from cluster.process_cleanup import ignore_signals, kill_marked

SWITCHES = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": 9500,
}
_PLACES = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}
# Ray drains leaving replicas for 30 s so that load balancers of a cloud notice; on one machine HAProxy knows at once.
_DRAINING = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"}
# Before Ray's own code, which fails on some requests before ours sees them.
_ENTRY = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serving.ray_serve.replica_entry:layers"}
# A replica that dies takes the requests with it that it had begun. To predict twice does no harm, so they go to another one;
# a few times at most, lest a request that kills its replica kills them all: a try is spent for each idle connection to the
# dead replica that HAProxy takes for a living one.
_RETRIES = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response", "RAY_SERVE_HAPROXY_RETRIES": "8"}
# HAProxy can repeat only what it has whole before it sends the first byte on (src/stconn.c clears TX_L7_RETRY otherwise), and
# most clients send headers and body apart: so it waits for the body, or for what fits into its buffer of 16 KiB, which keeps
# slow senders away from the replicas as well.
_WHOLE_REQUESTS = "option http-buffer-request"
# A log line for every request, which Ray's manager of HAProxy parses to count them, costs more than HAProxy itself; HAProxy's
# own exporter counts for nothing. The line that Ray writes to a syslog besides goes nowhere on most hosts.
_COUNTS = {"RAY_SERVE_HAPROXY_METRICS_ENABLED": "0"}
_NO_LOG = "no log"
# Clients that send nothing leave room for others: Ray's own 4,096 connections of an hour each are soon taken.
_IDLE_CLIENT_S = 15
_MOST_CONNECTIONS = 16_384
# Ray turns these, from 500 on, into a plain 500; 408 is HTML otherwise. (error, remedy, further headers) What HAProxy's parser
# itself refuses (400, 422) gets answers that are built into it (mux_h1.c, h1_send_error): no setting replaces them.
_ANSWERS = {
    408: ("the request was not there in time", "send it again, over a faster line", ""),
    502: ("the replica that had the request is gone", "send the request again", "hdr retry-after 1"),
    503: ("no replica can answer now", "send the request again in a second", "hdr retry-after 1"),
    504: ("the replica did not answer in time", "send fewer texts in one request", ""),
}
_DESCRIPTORS_PER_CONNECTION = 2.5  # two ends, and pipes for a quarter of them; HAProxy refuses to start with fewer


@contextmanager
def own_haproxy(*, max_message_bytes: int) -> Iterator[None]:
    """Sets the environment for a Ray to be started, and shut down, inside the block; afterwards no process of it is left.

    What the user set stays as it is. The two switches outlive the block, because imported modules have read them.

    Args:
        max_message_bytes: Of a message of gRPC, in either direction; Ray's own limit is 2 GiB.

    Raises:
        ClusterError: Ray Serve was imported before it could be switched.
    """
    _switch_on()
    directory = Path(tempfile.mkdtemp(prefix="ba-", dir="/tmp"))  # short: socket paths end at 107 bytes
    settings = {name: str(directory / file) for name, file in _PLACES.items()}
    settings |= _DRAINING | everywhere() | _clients()
    settings["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"] = str(max_message_bytes)
    settings |= {name: str(_free_port(port)) for name, port in _PORTS.items() if name not in os.environ}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        with ignore_signals():
            for name in added:
                del os.environ[name]
            kill_marked(f"{directory}/")
            shutil.rmtree(directory, ignore_errors=True)


def everywhere() -> dict[str, str]:
    """The environment that every node of every cluster needs beside the switches; k8s/ is held to it."""
    return _ENTRY | _RETRIES | _COUNTS | {"RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "\n    ".join(_defaults())}


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _clients() -> dict[str, str]:
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    fitting = int((room - 256) / _DESCRIPTORS_PER_CONNECTION) if room != resource.RLIM_INFINITY else _MOST_CONNECTIONS
    return {
        # On two cores a second thread only costs: one serves some thousand requests/s.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, usable_cores() // 2))),
        "RAY_SERVE_HAPROXY_MAXCONN": str(max(64, min(_MOST_CONNECTIONS, fitting))),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_IDLE_CLIENT_S),
    }


def _defaults() -> list[str]:
    """Lines of HAProxy's section `defaults`. Ray has no settings for them, but writes this one there as it is, and last.

    tests/serving/ray_serve/test_hostile.py sees whether they still arrive.
    """
    addresses = "option forwardfor"  # the access log's client
    lines = ["leastconn", _NO_LOG, _WHOLE_REQUESTS, f"timeout http-request {_IDLE_CLIENT_S}s", addresses]
    for status, (error, remedy, headers) in _ANSWERS.items():
        body = json.dumps({"error": error, "field": None, "allowed": None, "remedy": remedy})
        lines.append(f"http-error status {status} content-type application/json string '{body}' {headers}".rstrip())
    return lines


def _switch_on() -> None:
    missing = {name: value for name, value in SWITCHES.items() if name not in os.environ}
    if missing and "ray.serve" in sys.modules:
        raise ClusterError(
            "Ray Serve was imported before HAProxy was switched on",
            remedy=f"set {', '.join(f'{name}=1' for name in missing)} before Python starts",
        )
    os.environ.update(missing)


def _free_port(wanted: int) -> int:
    if is_port_free("0.0.0.0", wanted):  # noqa: S104 - where HAProxy listens with its statistics
        return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
