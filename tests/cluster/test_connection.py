"""Reaching Ray, for real."""

import http.server
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.bundle import FORMAT_VERSION
from agent.errors import ClusterError
from cluster import ClusterConfig, connect, connection
from cluster.process_cleanup import find_marked

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("no_ray")  # a process that is connected stays so

PROGRAM = """
import os, sys
sys.path.insert(0, {root!r})
import ray
from cluster import ClusterConfig, connect

@ray.remote(num_cpus=1)
def seen():
    import agent.bundle, cluster, training, compression
    return agent.bundle.FORMAT_VERSION, os.environ.get("GREETING"), os.getcwd()

resources = connect(ClusterConfig(num_cpus=1, num_gpus=0), env_vars={{"GREETING": "hello"}})
assert resources["CPU"] == 1, resources
print("worker", *ray.get(seen.remote()), flush=True)
connect(ClusterConfig())
print("address", ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.readline()
ray.shutdown()
"""
GUEST = "import sys; sys.path.insert(0, {root!r}); from cluster import *; print(connect(ClusterConfig())['CPU'])"

STOPPED = """
import sys, time
sys.path.insert(0, {root!r})
import ray
from agent.config import cli
from agent.config.base import Config
from cluster import ClusterConfig, connect

def main(config):
    connect(ClusterConfig(address="local", num_cpus=1, num_gpus=0, dashboard=False))
    answer = ray.remote(lambda: time.sleep(300)).remote()
    try:
        print("asked", flush=True)
        ray.get(answer)
    finally:
        ray.cluster_resources()  # Ray is still there
        print("tidied", flush=True)

sys.exit(cli.run(Config, main, usage="usage", arguments=[]))
"""


def refusal(address):
    begin = time.monotonic()
    with pytest.raises(ClusterError) as caught:
        connect(ClusterConfig(address=address))
    assert time.monotonic() - begin < 60
    message = str(caught.value)
    assert f"cannot use Ray at {address}" in message
    assert "Remedy: check RAY_ADDRESS" in message
    return message


@pytest.fixture
def silent():
    """A server that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def website():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in refusal(f"127.0.0.1:{port}")
    assert "refused" in refusal(f"ray://localhost:{port}")


def test_a_name_that_nobody_has_is_refused_at_once():
    refusal("no-such-host.invalid:6379")


def test_an_address_that_is_none_is_refused_at_once():
    refusal("garbage")


def test_a_server_that_is_no_ray_is_refused(website):
    refusal(f"127.0.0.1:{website}")


def test_a_server_that_says_nothing_is_refused(silent, monkeypatch):
    monkeypatch.setattr(connection, "_PROBE_TIMEOUT_S", 0.5)
    refusal(f"127.0.0.1:{silent}")


def test_a_temporary_directory_too_long_for_sockets_is_told_as_such(monkeypatch, tmp_path):
    place = tmp_path / ("x" * 90)
    place.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    with pytest.raises(ClusterError) as caught:
        connect(ClusterConfig(address="local", num_cpus=1, num_gpus=0, dashboard=False))
    assert "RAY_ADDRESS" not in str(caught.value)
    assert f"below {place}, whose name is too long for them: set RAY_TMPDIR to a short directory" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("Could not determine home directory."), "set HOME to one that can be written"),
        (PermissionError(13, "Permission denied", "/tmp/ray"), "can be written, or set RAY_TMPDIR"),
        (Exception("The current node timed out during startup."), "whether this machine is overloaded"),
    ],
)
def test_what_keeps_a_local_ray_from_starting_is_no_matter_of_its_address(error, remedy):
    assert remedy in connection._remedy(None, error)
    assert "RAY_ADDRESS" not in connection._remedy(None, error)
    assert "RAY_ADDRESS" in connection._remedy("host:6379", error)


def test_a_wrong_ray_address_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "no-such-host.invalid:6379")
    with pytest.raises(ClusterError, match=r"no-such-host\.invalid:6379"):
        connect(ClusterConfig())


@pytest.mark.system
def test_a_local_ray_serves_from_any_directory_and_can_be_joined(tmp_path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") and name != "PYTHONPATH"}
    clean |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of this test's cluster alone
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))], cwd=tmp_path, env=clean | {"RAY_ADDRESS": "local"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as host:  # fmt: skip
        try:
            told = []
            for line in host.stdout:
                told.append(line.strip())
                if line.startswith("address"):
                    break
            assert told[0].startswith("cluster: local Ray, 1 node(s), 1 CPUs, 0 GPUs; what Ray says: /"), told
            assert told[1] == f"worker {FORMAT_VERSION} hello {tmp_path}"
            assert told[2] == told[0], "connecting again is harmless"
            address = told[3].split()[1]
            guest = subprocess.run(
                [sys.executable, "-c", GUEST.format(root=str(ROOT))], cwd=tmp_path, env=clean | {"RAY_ADDRESS": address},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            joined = f"cluster: Ray at {address}, 1 node(s), 1 CPUs, 0 GPUs; what Ray says: /"
            assert guest.stdout.startswith(joined), guest.stderr
            assert guest.stdout.endswith("\n1.0\n")
        finally:
            host.communicate("\n", timeout=60)
    assert host.returncode == 0


@pytest.mark.faults
@pytest.mark.system
def test_sigterm_ends_a_command_on_a_local_ray_in_order(tmp_path):
    """Ray's own handler would print native traces and kill its processes before the command could tidy up."""
    mark = f"bert-agent-{secrets.token_hex(8)}"
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED.format(root=str(ROOT))], cwd=tmp_path, env=os.environ | {"BERT_AGENT_TEST": mark},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as command:  # fmt: skip
        assert command.stdout.readline().startswith("cluster: local Ray")
        assert command.stdout.readline() == "asked\n"
        command.terminate()
        shown, errors = command.communicate(timeout=60)
    assert (command.returncode, shown) == (143, "tidied\n"), errors
    assert "SIGTERM" not in errors
    assert find_marked(mark) == []
