"""What the checks look at: the manifests' objects, pyproject.toml and the Dockerfile, and ways into a Ray kind."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ROOT / "k8s-overlays"
CRDS = ROOT.parent / "shared" / "k8s" / "crds"

Object = dict[str, Any]


_TEXTS = (
    "docs/kubernetes.md",
    "k8s/06-network.yaml",
    "k8s-overlays/cpu/Kustomization",
    "k8s-overlays/incremental/Kustomization",
)


@dataclass
class World:
    """Everything that must fit together. A test that plants a mistake changes a copy.

    `examples` are the secrets of k8s/secrets/, which no command of ours applies; `texts` the files whose prose or comments are
    checked as well.
    """

    objects: list[Object]
    examples: list[Object] = field(default_factory=lambda: _objects(K8S / "secrets"))
    pyproject: dict[str, Any] = field(default_factory=lambda: tomllib.loads((ROOT / "pyproject.toml").read_text()))
    dockerfile: str = field(default_factory=(ROOT / "Dockerfile").read_text)
    constraints: list[str] = field(default_factory=lambda: _lines(ROOT / ".ci/constraints.txt"))
    texts: dict[str, str] = field(default_factory=lambda: {name: (ROOT / name).read_text() for name in _TEXTS})

    def copy(self) -> World:
        return copy.deepcopy(self)

    def get(self, kind: str, name: str | None = None) -> Object:
        return next(item for item in self.objects if item["kind"] == kind and name in (None, item["metadata"]["name"]))

    def of(self, *kinds: str) -> Iterator[Object]:
        return (item for item in self.objects if item["kind"] in kinds)

    def only(self, item: Object) -> World:
        return World([item], self.examples, self.pyproject, self.dockerfile, self.constraints, self.texts)

    @property
    def extras(self) -> dict[str, list[str]]:
        extras: dict[str, list[str]] = self.pyproject["project"]["optional-dependencies"]
        return extras

    @property
    def ray_pin(self) -> str:
        pins = {
            pin for items in self.extras.values() for item in items for pin in re.findall(r"^ray\[.*?\]==(.+)$", item)
        }
        assert len(pins) == 1, f"pyproject.toml pins Ray to {pins}"
        return str(pins.pop())


@dataclass(frozen=True)
class Template:
    """A pod template: `where` it stands, its `role`, and the mapping itself."""

    where: str
    role: str  # head, worker, submitter; pod for what is not Ray's
    owner: Object
    body: Object

    @property
    def spec(self) -> Object:
        spec: Object = self.body["spec"]
        return spec

    @property
    def inits(self) -> list[Object]:
        found: list[Object] = self.spec.get("initContainers", [])
        return found

    @property
    def containers(self) -> list[Object]:
        return [*self.inits, *self.spec["containers"]]

    @property
    def ray(self) -> Object:
        """The container that Ray runs in: KubeRay takes the first."""
        first: Object = self.spec["containers"][0]
        return first

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.body.get("metadata", {}).get("labels", {})
        return found


def load_files(*places: Path) -> World:
    """The objects of YAML files, in name order; anchors resolved into separate values."""
    return World([item for place in places for item in _objects(place)])


def load_rendered(*directories: Path) -> World:
    """The objects as `kubectl kustomize` renders them."""
    command = program("kubectl")
    assert command
    texts = [
        subprocess.run([command, "kustomize", place], capture_output=True, text=True, check=True, timeout=60).stdout
        for place in directories
    ]
    return World([item for text in texts for item in yaml.safe_load_all(text) if item])


def program(name: str) -> str | None:
    """A program that a wheel brought into this environment, else one on PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def _objects(place: Path) -> list[Object]:
    files = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
    return [_unshare(item) for file in files for item in yaml.safe_load_all(file.read_text()) if item]


def label(item: Object) -> str:
    return f"{item['kind']} {item['metadata'].get('name', '?')}"


def jobs(world: World) -> Iterator[tuple[Object, Object]]:
    """Each RayJob, and what a RayCronJob makes into one, with its spec."""
    for item in world.of("RayJob", "RayCronJob"):
        yield item, item["spec"].get("jobTemplate", item["spec"])


def clusters(world: World) -> Iterator[tuple[Object, Object]]:
    """Each Ray kind with its cluster's spec."""
    for item in world.of("RayService", "RayCluster"):
        yield item, item["spec"].get("rayClusterConfig", item["spec"])
    for item, spec in jobs(world):
        yield item, spec["rayClusterSpec"]


def templates(world: World, *roles: str) -> Iterator[Template]:
    """Every pod template of the Ray kinds, or those of some roles."""
    return (item for item in _templates(world) if not roles or item.role in roles)


def _templates(world: World) -> Iterator[Template]:
    for item, cluster in clusters(world):
        yield Template(f"{label(item)}, head", "head", item, cluster["headGroupSpec"]["template"])
        for group in cluster.get("workerGroupSpecs", []):
            yield Template(f"{label(item)}, group {group['groupName']}", "worker", item, group["template"])
    for item, spec in jobs(world):
        if "submitterPodTemplate" in spec:
            yield Template(f"{label(item)}, submitter", "submitter", item, spec["submitterPodTemplate"])
    for item in world.of("StatefulSet", "Deployment"):
        yield Template(label(item), "pod", item, item["spec"]["template"])
    for item in world.of("Pod"):
        yield Template(label(item), "pod", item, item)


def quantity(value: str | int | float) -> float:
    """A Kubernetes quantity as a number: 500m, 4Gi, 2."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    match = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti|)", str(value))
    assert match, f"not a quantity that these manifests use: {value}"
    return float(match[1]) * units.get(match[2], 1)


def _unshare(value: Any) -> Any:
    """YAML's aliases are one object in many places; a planted mistake must hit one place."""
    if isinstance(value, dict):
        return {key: _unshare(item) for key, item in value.items()}
    return [_unshare(item) for item in value] if isinstance(value, list) else value
