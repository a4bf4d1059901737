"""Training, and serving by the manifest's own Serve config, on a cluster of two raylets with token authentication."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.bundle import Bundle
from tests.manifests.world import K8S, load_files
from tests.ports import free_port
from tests.serving.tiny import make_bundle
from tests.system.nodes import Cluster, two_nodes, wait_for
from tests.tiny import make_model, write_conll

pytestmark = [pytest.mark.system, pytest.mark.faults]
REQUEST = {"inputs": "Anna flew from Oslo to Lima on Monday."}


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as cluster:
        yield cluster


def submit(cluster, *entrypoint):
    return cluster.run("job", "submit", "--address", cluster.address, "--working-dir", ".", "--", *entrypoint)


def test_the_cluster_refuses_callers_without_the_token(cluster):
    assert wait_for(f"{cluster.address}/api/jobs/", {}) == 401


def test_training_runs_unchanged_through_ray_job_submit_on_both_nodes(cluster, tmp_path):
    make_model(tmp_path / "model")
    write_conll(tmp_path / "data")
    done = submit(
        cluster, "python", "training/run.py", f"data.path={tmp_path / 'data'}", f"model.name={tmp_path / 'model'}", f"output={tmp_path / 'agent'}",
        "epochs=6", "num_workers=2", "batch.tokens=128", "optimizer.learning_rate=0.005", "model.stride=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "2 node(s)" in done.stdout
    assert "2 CPU worker(s), 2 CPU thread(s) each" in done.stdout  # as many as a node has: one lies on each
    bundle = Bundle.load(tmp_path / "agent")
    assert {evaluation.split: evaluation.report.value for evaluation in bundle.manifest.evaluations}["test"] > 0.8


def test_a_wrong_key_fails_the_job_with_a_message(cluster):
    done = submit(cluster, "python", "training/run.py", "epoch=3")
    assert done.returncode != 0
    assert "unknown key 'epoch' (did you mean epochs" in done.stdout


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two bundles: one on shared disk, one behind a URI, which every node copies."""
    place = tmp_path_factory.mktemp("bundles")
    old, new = make_bundle(place / "agent-1"), make_bundle(place / "agent-2", seed=1)
    return {str(old): Bundle.load(old).digest, new.as_uri(): Bundle.load(new).digest}


@pytest.fixture(scope="module")
def serve_config(cluster, versions, tmp_path_factory):
    """What k8s/20-rayservice.yaml hands to Ray Serve, with the sizes, the port and the place of this machine."""
    text = load_files(K8S).get("RayService")["spec"]["serveConfigV2"]
    port = free_port()
    for old, new in {
        "bundle: /bundles/agent-small": "bundle: VERSION", "port: 8000": f"port: {port}", "host: 0.0.0.0": "host: 127.0.0.1",
        "proxy_location: EveryNode": "proxy_location: HeadOnly",  # both nodes have one address
        "num_cpus: 2": "num_cpus: 1", "max_replicas: 8": "max_replicas: 2",
    }.items():  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    file = tmp_path_factory.mktemp("config") / "serve.yaml"

    def write(version: str) -> Path:
        file.write_text(text.replace("VERSION", version))
        return file

    return f"http://127.0.0.1:{port}", write


def deploy(cluster: Cluster, file: Path) -> None:
    done = cluster.run("deploy", file, "--address", cluster.address)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_until_served(url: str, digest: str, seconds: float = 150) -> None:
    """Until twenty answers in a row come from that version."""
    deadline, in_a_row = time.monotonic() + seconds, 0
    while in_a_row < 20:
        assert time.monotonic() < deadline, f"{url} does not serve {digest[:12]}"
        try:
            with urllib.request.urlopen(f"{url}/info", timeout=10) as answer:
                in_a_row = in_a_row + 1 if json.load(answer)["bundle"] == digest else 0
        except OSError:
            in_a_row = 0
        time.sleep(0.05)


@contextmanager
def callers(url: str, number: int = 4) -> Iterator[Counter[int | str]]:
    """Callers that ask all the time; counts their answers: by status, and what was said where it is not 200."""
    answers: Counter[int | str] = Counter()
    stop = threading.Event()
    body = json.dumps(REQUEST).encode()

    def call() -> None:
        while not stop.is_set():
            request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    answers[answer.status] += 1
            except urllib.error.HTTPError as error:
                answers[f"{error.code}: {error.read().decode()}"] += 1
            except OSError as error:
                answers[repr(error)] += 1
            time.sleep(0.02)

    threads = [threading.Thread(target=call) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_bundle_goes_live_by_changing_one_line_and_back_without_a_lost_request(cluster, versions, serve_config):
    url, write = serve_config
    (old, old_digest), (new, new_digest) = versions.items()
    deploy(cluster, write(old))
    wait_until_served(url, old_digest)
    with callers(url) as answers:
        deploy(cluster, write(new))
        wait_until_served(url, new_digest)
        deploy(cluster, write(old))
        wait_until_served(url, old_digest)
    assert set(answers) == {200}
    assert answers[200] > 100


def test_a_bundle_that_is_damaged_does_not_take_over(cluster, versions, serve_config, tmp_path):
    url, write = serve_config
    (old, old_digest), _ = versions.items()
    broken = make_bundle(tmp_path / "broken", seed=2)
    (broken / "model.int8.onnx").write_bytes(b"cut short")
    deploy(cluster, write(old))
    wait_until_served(url, old_digest)
    deploy(cluster, write(str(broken)))
    deadline = time.monotonic() + 150
    while "was altered" not in (told := cluster.served()):
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    wait_until_served(url, old_digest)
