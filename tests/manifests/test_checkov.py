"""checkov over the core kinds, the Ray kinds' pod templates as pods, and the Dockerfile: `make check-security`.

It lives in an environment of its own, which CHECKOV names; without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.schema_checks import is_custom
from tests.manifests.world import K8S, ROOT, World, clusters, load_files, templates

COMMAND = os.environ.get("CHECKOV")
pytestmark = pytest.mark.skipif(COMMAND is None, reason="CHECKOV names no checkov: make check-security")

# What checkov asks and these files do otherwise on purpose.
_SKIPPED = {
    "CKV_K8S_8": "KubeRay adds the liveness probe",
    "CKV_K8S_9": "KubeRay adds the readiness probe",
    "CKV_K8S_15": "a release's image does not change, and kind's are loaded, not pulled",
    "CKV_K8S_35": "the operator hands Redis' password to Ray as a variable; Redis' own probes read one",
    "CKV_K8S_43": "digests are set where images are pushed: k8s-overlays/prod",
    "CKV_DOCKER_7": "it reads the names of stages as images; image_checks.python_version holds the base image",
    "CKV_DOCKER_2": "probes belong to Kubernetes",
}


def _as_pods(world: World) -> list[dict[str, Any]]:
    core = [item for item in world.objects if not is_custom(item)]
    for index, template in enumerate(templates(world, "head", "worker", "submitter")):
        metadata = {"name": f"template-{index}", "namespace": "bert-agent", **template.body["metadata"]}
        # Mounted on purpose where the autoscaler runs; tests/manifests/security_checks.py holds where that is.
        spec = {**template.spec, "automountServiceAccountToken": False}
        core.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return core


def _findings(folder: Path, framework: str) -> list[str]:
    assert COMMAND
    command = [Path(COMMAND).absolute(), "-d", folder, "--framework", framework, "-o", "json", "--compact", "--quiet", "--skip-download", "--skip-check", ",".join(_SKIPPED)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    report = json.loads(done.stdout)
    failed = report.get("results", {}).get("failed_checks", [])
    assert report["summary"]["passed"] if "summary" in report else report["passed"], "checkov looked at nothing"
    return [f"{item['check_id']} {item['check_name']}: {item['resource']}" for item in failed]


def _write(world: World, folder: Path) -> Path:
    (folder / "all.yaml").write_text(yaml.safe_dump_all(_as_pods(world)))
    return folder


def test_the_manifests_hold(tmp_path: Path) -> None:
    assert _findings(_write(load_files(K8S, K8S / "jobs"), tmp_path), "kubernetes") == []


def test_a_planted_mistake_is_found(tmp_path: Path) -> None:
    world = load_files(K8S, K8S / "jobs")
    _, cluster = next(iter(clusters(world)))
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    worker["securityContext"]["privileged"] = True
    worker["resources"].pop("limits")
    found = " ".join(_findings(_write(world, tmp_path), "kubernetes"))
    assert "CKV_K8S_16" in found  # privileged
    assert "CKV_K8S_13" in found  # memory limits


def test_the_dockerfile_holds_and_a_planted_mistake_is_found(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile").read_text()
    (tmp_path / "Dockerfile").write_text(text)
    assert _findings(tmp_path, "dockerfile") == []
    (tmp_path / "Dockerfile").write_text(text.replace("USER 10001:10001", "USER root"))
    assert "CKV_DOCKER_8" in " ".join(_findings(tmp_path, "dockerfile"))
