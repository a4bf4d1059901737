"""The service's init container, run as it stands in k8s/20-rayservice.yaml, on a directory in place of the volume."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.test_bundles import make_bundle
from tests.manifests.world import K8S, ROOT, load_files, templates


def _run(volume: Path, node_type: str) -> subprocess.CompletedProcess[str]:
    """Looks once in place of waiting for a year."""
    (head,) = templates(load_files(K8S / "20-rayservice.yaml"), "head")
    (container,) = head.inits
    (script,) = container["args"]
    assert "/bundles/" in script
    assert "wait_s=31536000" in script
    script = script.replace("/bundles/", f"{volume}/").replace("wait_s=31536000", "wait_s=0")
    (variable,) = container["env"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [*container["command"], script], cwd=ROOT, env={variable["name"]: node_type, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("there", [["agent", "agent-small"], ["agent", "agent-small-2026-11-29-x7k2p"]])
def test_the_head_starts_with_any_version_that_may_be_served(there: list[str], tmp_path: Path) -> None:
    for name in there:
        make_bundle(tmp_path / name)
    done = _run(tmp_path, "head")
    assert done.returncode == 0, done.stderr
    assert there[1] in done.stdout


@pytest.mark.parametrize("there", [[], ["agent"]])
def test_it_waits_while_there_is_none(there: list[str], tmp_path: Path) -> None:
    for name in there:
        make_bundle(tmp_path / name)
    done = _run(tmp_path, "head")
    assert done.returncode == 2
    assert "agent-small*" in done.stderr


def test_the_pod_that_clears_redis_does_not_wait(tmp_path: Path) -> None:
    done = _run(tmp_path, "redis-cleanup")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
