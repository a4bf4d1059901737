"""What `kubectl apply -f k8s/` takes, and the file names that trip it (facts-k8s.md, 1 to 5 and 13)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.manifests.world import Object

APPLIED = (".yaml", ".yml", ".json")  # what kubectl reads in a folder; it does not descend
_ONE_OFF = {"Pod", "RayJob", "RayCronJob", "Job", "CronJob"}
# Custom resources whose absence would fail the whole command; KubeRay's are the stated prerequisite.
_EXPECTED_GROUPS = {"", "apps", "batch", "policy", "networking.k8s.io", "rbac.authorization.k8s.io", "scheduling.k8s.io", "ray.io"}  # fmt: skip

# What makes the folder one for production (facts-k8s.md, "A production-grade folder holds"), by sub-folder.
_HELD = {
    ".": {
        "Namespace", "ResourceQuota", "LimitRange", "PriorityClass", "ServiceAccount", "ConfigMap", "StatefulSet", "Service",
        "NetworkPolicy", "PersistentVolumeClaim", "RayService", "PodDisruptionBudget", "Ingress",
    },
    "jobs": {"Pod load", "RayJob train", "RayJob compress", "RayCronJob retrain"},
    "secrets": {"Secret redis", "Secret api-keys"},
    "monitoring": {"ConfigMap", "PrometheusRule", "PodMonitor"},
}  # fmt: skip


def file_names(k8s: Path) -> Iterator[str]:
    """No kustomization file that kubectl would take for an object, no overlay below its base, the namespace first."""
    for file in k8s.rglob("*"):
        if file.name.lower() in ("kustomization.yaml", "kustomization.yml"):
            yield f"{file.name}: kubectl apply -f takes it for an object; name it Kustomization"
        if file.name == "Kustomization" and ".." in file.read_text().split("resources:")[-1].split("patches:")[0]:
            yield f"{file.parent.name}: an overlay below its base is a cycle; lay it beside k8s/"
    flat = _flat(k8s)
    if not flat or [item["kind"] for item in _objects(flat[0])] != ["Namespace"]:
        yield "the first file is not the namespace alone; files are applied in the order of their names"


def applied_kinds(k8s: Path) -> Iterator[str]:
    """A plain apply creates long-lived things of known kinds; jobs and optional parts lie in sub-folders."""
    for file in _flat(k8s):
        for item in _objects(file):
            group = item["apiVersion"].rpartition("/")[0]
            if item["kind"] in _ONE_OFF:
                yield f"{file.name}: a {item['kind']} would start by accident; put it into a sub-folder"
            if group not in _EXPECTED_GROUPS:
                yield f"{file.name}: {item['kind']} of {group} may be absent, and its absence fails the command"


def completeness(k8s: Path) -> Iterator[str]:
    """Every part is there: the other checks say nothing of what is absent."""
    for place, wanted in _HELD.items():
        items = [item for file in _flat(k8s / place) for item in _objects(file)]
        held = {item["kind"] for item in items} | {f"{item['kind']} {item['metadata'].get('name')}" for item in items}
        yield from (f"k8s/{place}: no {name}" for name in sorted(wanted - held))


def fixed_names(k8s: Path) -> Iterator[str]:
    """`apply` refuses generateName."""
    for file in (file for file in k8s.rglob("*") if file.suffix in APPLIED):
        for item in _objects(file):
            if "generateName" in item["metadata"] or not item["metadata"].get("name"):
                yield f"{file.name}: a {item['kind']} without a name of its own cannot be applied"


def kustomizations(k8s: Path) -> Iterator[str]:
    """`apply -k` gives what `apply -f` gives."""
    for file in k8s.rglob("Kustomization"):
        listed = yaml.safe_load(file.read_text())["resources"]
        if set(listed) != {other.name for other in _flat(file.parent)}:
            yield f"{file.parent.name}/Kustomization lists {listed}, the folder holds {[f.name for f in _flat(file.parent)]}"


def _flat(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in APPLIED)


def _objects(file: Path) -> list[Object]:
    return [item for item in yaml.safe_load_all(file.read_text()) if item]


CHECKS = (file_names, applied_kinds, completeness, fixed_names, kustomizations)
