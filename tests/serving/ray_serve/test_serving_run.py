"""What is refused before anything starts, and what a configuration becomes."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from agent.errors import BundleError, ClusterError, ConfigError
from cluster.process_cleanup import find_marked
from serving.inference.engine import EngineConfig
from serving.middleware.api_keys import AuthConfig
from serving.ray_serve.haproxy import SWITCHES, own_haproxy
from serving.run import ServingConfig, running
from tests.commands import run_here
from tests.ports import free_port

ROOT = Path(__file__).parents[3]


COMMAND = [sys.executable, str(ROOT / "serving/run.py")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        status = run_here([*COMMAND, *arguments])
    return subprocess.CompletedProcess([*COMMAND, *arguments], status, out.getvalue(), errors.getvalue())


def test_help_lists_every_key_and_imports_nothing_heavy() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60, cwd="/", check=False)
    assert done.returncode == 0
    assert "engine.max_batch_tokens" in done.stdout
    heavy = {"ray", "onnxruntime", "fastapi"}
    code = f"import sys, serving.run; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundle=x", "prot=1"], "unknown key 'prot' (did you mean port"),
        ([], "'bundle' is required"),
        (["bundle=x", "port=70000"], "port=70000"),
        (["bundle=x", "engine.sessions=0"], "sessions is 0"),
        (
            ["bundle=x", "replicas.min_replicas=3", "replicas.max_replicas=2"],
            "max_replicas 2 lies below min_replicas 3",
        ),
        (["bundle=/nowhere"], "/nowhere is no bundle"),
        (["bundle=x", "name=a b"], "'a b' is no name for an agent"),
        (["bundle=runs/ner", "agents={ner: x}"], "two agents are called 'ner'"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_refused(tagger_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServingConfig(bundle=str(tagger_path), port=taken.getsockname()[1])
        with pytest.raises(ClusterError, match="port is taken"), running(config):
            pass


def test_another_cluster_is_not_used_by_accident(tagger_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with (
        pytest.raises(ClusterError, match=r"Ray at 10\.0\.0\.1:6379 is in use.*serve run"),
        running(ServingConfig(bundle=str(tagger_path))),
    ):
        pass


@pytest.mark.faults
@pytest.mark.system
def test_sigterm_while_it_starts_ends_it_as_ctrl_c_does(tagger_path: Path) -> None:
    mark = f"bert-agent-{uuid.uuid4()}"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "serving/run.py", f"bundle={tagger_path}", f"port={port}", "replicas.num_cpus=1", "cluster.dashboard=false"],
        cwd=ROOT, env=environment | {"BERT_AGENT_TEST": mark}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        while not process.stdout.readline().startswith("cluster: local Ray"):
            assert process.poll() is None
        time.sleep(2)  # Ray Serve starts
        process.terminate()
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert errors.endswith("interrupted\n")
    assert "SIGTERM" not in errors
    assert find_marked(mark) == []


def test_what_ray_left_running_does_not_outlive_its_haproxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: a process of Ray's that is late could start another HAProxy."""
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)  # they outlive the block
    with own_haproxy(max_message_bytes=1):
        late = subprocess.Popen(["sleep", "300"], start_new_session=True)
    assert late.wait(timeout=60) == -signal.SIGKILL


def test_a_file_of_keys_that_is_no_good_is_refused_before_anything_starts(tagger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("short\n")
    done = run(f"bundle={tagger_path}", f"auth.keys_file={tmp_path / 'keys'}")
    assert done.returncode == 2
    assert "line 1 of auth.keys_file" in done.stderr
    assert "short" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("guarded", [False, True])
def test_a_server_that_all_may_ask_says_so(
    tagger_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, host: str, guarded: bool
) -> None:
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    auth = AuthConfig(keys_file=str(tmp_path / "keys") if guarded else "")
    with socket.create_server((host, 0)) as taken:  # it gets no further than that
        config = ServingConfig(bundle=str(tagger_path), host=host, port=taken.getsockname()[1], auth=auth)
        with pytest.raises(ClusterError, match="port is taken"), running(config):
            pass
    assert ("auth.keys_file is not set" in caplog.text) == (host == "0.0.0.0" and not guarded)


def test_build_takes_strings_and_values_and_makes_the_path_absolute(
    tagger_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from serving.app import build

    monkeypatch.chdir(tagger_path.parent)
    monkeypatch.delenv("RAY_SERVE_ENABLE_HA_PROXY", raising=False)
    with caplog.at_level(logging.WARNING):
        application = build(
            {"bundle": "bundle", "log.access": "logs", "engine.sessions": "2", "replicas": {"max_replicas": 3}}
        )
    deployment = application._bound_deployment
    config, awaited = deployment.init_args
    assert awaited == ()
    assert config.bundle == str(tagger_path)
    assert (config.log.access, config.auth.keys_file) == (str(tagger_path.parent / "logs"), "")
    assert config.engine == EngineConfig(sessions=2)
    assert (config.replicas.num_cpus, config.replicas.max_replicas) == (1, 3)
    assert deployment._deployment_config.autoscaling_config.max_replicas == 3
    assert deployment._deployment_config.max_ongoing_requests > config.limits.max_concurrent_requests
    assert "HAProxy is off" in caplog.text
    assert "auth.keys_file is not set" in caplog.text


def test_build_refuses_what_it_does_not_know_or_cannot_serve(tagger_path: Path, tmp_path: Path) -> None:
    from serving.app import build

    with pytest.raises(ConfigError, match="unknown key 'port'"):
        build({"bundle": str(tagger_path), "port": "8000"})
    with pytest.raises(BundleError, match="is no bundle"):
        build({"bundle": str(tmp_path)})
    with pytest.raises(BundleError, match="no ONNX graph of precision 'fp16'"):
        build({"bundle": str(tagger_path), "precision": "fp16"})


def test_no_file_of_serving_shadows_a_library() -> None:
    """`python serving/run.py` starts with serving/ first on sys.path."""
    ours = {file.stem for file in (ROOT / "serving").glob("*.py")} - {"__init__"}
    assert not ours & (sys.stdlib_module_names | set(importlib.metadata.packages_distributions()))


def test_an_agent_is_called_as_said_or_after_its_directory() -> None:
    config = ServingConfig(bundle="/runs/my agent (v2)", agents={"tickets": "/runs/x"})
    assert {prefix: app.agent_name for prefix, app in config.apps.items()} == {
        "/": "my-agent-v2",
        "/models/tickets": "tickets",
    }
    assert ServingConfig(bundle="/runs/ner", name="news").apps["/"].agent_name == "news"


def test_a_taken_port_for_grpc_is_refused(tagger_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        config = ServingConfig(bundle=str(tagger_path), port=port, grpc_port=taken.getsockname()[1])
        with pytest.raises(ClusterError, match=r"port is taken.*grpc_port=\.\.\."), running(config):
            pass
