"""A training job submitted to a running cluster with token authentication, as a user of a cluster does it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from agent.bundle import Bundle
from tests.tiny import make_model, write_conll

pytestmark = pytest.mark.system
ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url, headers, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head node with a token, in a session directory of its own; ends with everything that it started."""
    binaries = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
    }  # fmt: skip
    port = free_port()
    command = [
        binaries / "ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats", "--include-dashboard=true",
        f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={tmp_path_factory.mktemp('r')}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as head:
        try:
            wait_for(
                f"http://127.0.0.1:{port}/api/version", {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}
            )
            yield f"http://127.0.0.1:{port}", environment
        finally:
            head.send_signal(signal.SIGTERM)
            try:
                head.wait(timeout=40)
            finally:
                if head.poll() is None:
                    os.killpg(head.pid, signal.SIGKILL)


def submit(cluster, *entrypoint):
    address, environment = cluster
    command = [
        Path(sys.executable).parent / "ray",
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        ".",
        "--",
        *entrypoint,
    ]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_the_cluster_refuses_callers_without_the_token(cluster):
    assert wait_for(f"{cluster[0]}/api/jobs/", {}) == 401


def test_training_runs_unchanged_through_ray_job_submit(cluster, tmp_path):
    make_model(tmp_path / "model")
    write_conll(tmp_path / "data")
    done = submit(
        cluster, "python", "training/run.py", f"data.path={tmp_path / 'data'}", f"model.name={tmp_path / 'model'}", f"output={tmp_path / 'agent'}",
        "epochs=6", "num_workers=2", "batch.tokens=128", "optimizer.learning_rate=0.005", "model.stride=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "2 CPU worker(s)" in done.stdout
    bundle = Bundle.load(tmp_path / "agent")
    assert {evaluation.split: evaluation.report.value for evaluation in bundle.manifest.evaluations}["test"] > 0.8


def test_a_wrong_key_fails_the_job_with_a_message(cluster):
    done = submit(cluster, "python", "training/run.py", "epoch=3")
    assert done.returncode != 0
    assert "unknown key 'epoch' (did you mean epochs" in done.stdout
