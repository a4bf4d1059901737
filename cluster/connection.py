"""Connects to the cluster that RAY_ADDRESS names, or starts a local Ray."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from agent.config.base import Config
from agent.errors import ClusterError
from cluster import ray_output

_PROBE_TIMEOUT_S = 5.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# RFC 9113, section 3.4: the preface of an HTTP/2 connection with empty settings; the answer begins with settings too.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_ROOT = Path(__file__).resolve().parent.parent


class ClusterConfig(Config):
    """Which Ray to use."""

    address: str | None = Field(
        None, description="Ray address ('auto', 'host:6379'); default: RAY_ADDRESS, else a local Ray is started"
    )
    num_cpus: int | None = Field(None, ge=1, description="CPUs of a local Ray; default: the cores this process may use")
    num_gpus: int | None = Field(None, ge=0, description="GPUs of a local Ray; default: those it finds")
    dashboard: bool = Field(True, description="start Ray's dashboard with a local Ray")

    @property
    def joined(self) -> str | None:
        """The address of a Ray that runs already; None where a local one is started."""
        address = self.address or os.environ.get("RAY_ADDRESS") or None
        return None if address == "local" else address


def connect(
    config: ClusterConfig, *, env_vars: Mapping[str, str] | None = None, worker_lines: bool = True
) -> Mapping[str, float]:
    """Connects this process to Ray, unless it is connected already, and says so in one line.

    Args:
        config: Which Ray.
        env_vars: Environment variables for all workers of this program.
        worker_lines: Whether what workers print reaches the terminal; lines of several runs at a time would be mixed.

    Returns:
        The cluster's resources, `{"CPU": 2.0, ...}`.

    Raises:
        ClusterError: The address cannot be reached.
    """
    import ray

    address = config.joined
    if not ray.is_initialized():
        try:
            _check_reachable(address)
            with _own_sigterm():
                ray.init(**_arguments(config, address, dict(env_vars or {})), log_to_driver=worker_lines)
        except Exception as error:  # noqa: BLE001 - Ray raises bare Exception where a node does not start in time
            raise ClusterError(
                f"cannot use Ray at {address or 'this machine'} ({' '.join(str(error).split())[:300]})",
                remedy=_remedy(address, error),
            ) from None
    resources: dict[str, float] = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    print(
        f"cluster: {'Ray at ' + address if address else 'local Ray'}, {nodes} node(s), {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs; "
        f"what Ray says: {ray_output.divert()}",
        flush=True,
    )
    return resources


def _remedy(address: str | None, error: Exception) -> str:
    """What helps against an error of Ray: a local one has no address that could be wrong."""
    if address:
        return "check RAY_ADDRESS and RAY_AUTH_TOKEN, or unset RAY_ADDRESS to start a local Ray"
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - where Ray puts its sockets
    if "AF_UNIX" in str(error):
        return f"Ray keeps its sockets below {place}, whose name is too long for them: set RAY_TMPDIR to a short directory, as in RAY_TMPDIR=/tmp"
    if "home directory" in str(error):
        return "this user has no home directory: set HOME to one that can be written, as in HOME=/tmp"
    if isinstance(error, OSError):
        return f"see that {place} can be written, or set RAY_TMPDIR to another directory"
    return f"see whether this machine is overloaded, and what Ray wrote below {place}/ray/session_latest/logs"


def node_resources() -> list[Mapping[str, float]]:
    """Resources of each node of the cluster that this process is connected to, `{"CPU": 2.0, ...}`."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def usable_cores() -> int:
    """Cores that this process may run on (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps our SIGTERM handler: Ray's prints native traces and kills Ray's processes before their users can end."""
    if threading.current_thread() is not threading.main_thread():  # there Ray sets none
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_reachable(address: str | None) -> None:
    """Asks the address for an HTTP/2 greeting, as gRPC servers give it: ray.init would try a wrong one for minutes.

    Raises:
        OSError: Nothing answers there, or not as a Ray server does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # 'auto', or a form that Ray itself refuses
    host = host.strip("[]")
    try:
        _greet(host, int(port))
    except OSError:
        if host not in _LOOPBACK:
            raise
        import ray

        _greet(ray.util.get_node_ip_address(), int(port))  # where Ray looks for localhost


def _greet(host: str, port: int) -> None:
    with contextlib.closing(socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S)) as connection:
        if os.environ.get("RAY_USE_TLS") == "1":
            return
        connection.sendall(_HTTP2_PREFACE)
        if connection.recv(9)[3:4] != b"\x04":
            raise OSError("what listens there is no Ray server")


def _arguments(config: ClusterConfig, address: str | None, env_vars: dict[str, str]) -> dict[str, Any]:
    shared: dict[str, Any] = {"runtime_env": {"env_vars": env_vars}, "logging_level": logging.ERROR}
    if address:
        return shared | {"address": address}
    # Workers of a local Ray must import our packages wherever the command was started from.
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    shared["runtime_env"] = {"env_vars": {"PYTHONPATH": path} | env_vars}
    return shared | {
        "address": "local",  # None would join a cluster that `ray start` left on this machine
        "num_cpus": config.num_cpus or usable_cores(),
        "num_gpus": config.num_gpus,
        "include_dashboard": config.dashboard,
    }
