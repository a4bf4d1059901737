"""All pods that stand at one time while the document's commands for a small cluster are given, against the node it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.manifests.documented.document import NAME, commands, option, without_gpus
from tests.manifests.world import Object, World, clusters, jobs, label, quantity, templates

Room = dict[str, float]

_OVERLAY = "k8s-overlays/cpu/Kustomization"
_NODE = re.compile(r"one node of (\d+) CPUs and (\d+) GB")
_GIB = 2**30
# Requests of what is not ours on a node of kind: API server 250m, controller-manager 200m, scheduler 100m, etcd 100m and 100Mi,
# two CoreDNS of 100m and 70Mi, kindnet 100m and 50Mi (minikube's are smaller); KubeRay's operator 100m and 512Mi.
OTHERS: Room = {"cpu": 1.05, "memory": (100 + 2 * 70 + 50 + 512) * 2**20}


@dataclass(frozen=True)
class Moment:
    """What stands after a command."""

    command: str
    pods: dict[str, Room]

    def total(self, resource: str) -> float:
        return OTHERS[resource] + sum(room[resource] for room in self.pods.values())


def node(world: World) -> Room:
    """The node that document and overlay name."""
    found = {
        name: _NODE.search(text) for name, text in ((NAME, without_gpus(world)), (_OVERLAY, world.texts[_OVERLAY]))
    }
    sizes = {name: (int(match[1]), int(match[2]) * 10**9) for name, match in found.items() if match}
    assert set(sizes) == set(found), f"no node is named in one of {set(found)}"
    assert len(set(sizes.values())) == 1, f"not one node: {sizes}"
    cpus, memory = sizes[NAME]
    return {"cpu": cpus, "memory": memory}


def moments(world: World, rendered: Callable[[str], World]) -> Iterator[Moment]:
    """What stands after each command, if every job takes until it is waited for.

    Args:
        world: Holds the document.
        rendered: The objects of a directory, as kustomize builds them.
    """
    applied: dict[str, Object] = {}
    finished: set[str] = set()
    for words in commands(without_gpus(world)):
        if words[:2] == ["kubectl", "apply"]:
            chosen = option(words, "-l")
            for item in rendered(option(words, "-k")).objects:
                if _selected(item, chosen):
                    applied[label(item)] = item
        elif "wait" in words and option(words, "--for").endswith("=SUCCEEDED"):
            finished |= {f"RayJob {word.partition('/')[2]}" for word in words if word.startswith("rayjob/")}
        pods = dict(_pods(World(list(applied.values())), finished))
        yield Moment(" ".join(words), pods)


def too_large(world: World, rendered: Callable[[str], World]) -> Iterator[str]:
    """The moments at which a pod waits for room that does not come."""
    has, served = node(world), False
    for moment in moments(world, rendered):
        served = served or any(name.startswith("RayService") for name in moment.pods)
        for resource, unit, name in (("cpu", 1, "CPUs"), ("memory", _GIB, "GiB")):
            if moment.total(resource) > has[resource]:
                yield f"{NAME}: {moment.command}: {', '.join(moment.pods)} want {moment.total(resource) / unit:.2f} {name}, the node has {has[resource] / unit:.2f}"
    if not served:
        yield f"{NAME}: without GPUs: nothing is served in the end"


def _selected(item: Object, selector: str) -> bool:
    value = item["metadata"].get("labels", {})
    if not selector:
        return True
    key, unequal, wanted = selector.partition("!=") if "!=" in selector else selector.partition("=")
    return bool((value.get(key) == wanted) != (unequal == "!="))


def _pods(world: World, finished: set[str]) -> Iterator[tuple[str, Room]]:
    """Every pod with its requests. What remains of a finished job stays until its cluster's time is up."""
    for item, cluster in clusters(world):
        spec = item["spec"]
        if label(item) in finished and spec.get("shutdownAfterJobFinishes") and not spec.get("ttlSecondsAfterFinished"):
            continue
        extra = cluster["autoscalerOptions"]["resources"] if cluster.get("enableInTreeAutoscaling") else None
        yield f"{label(item)}, head", _requests(cluster["headGroupSpec"]["template"]["spec"], extra)
        for group in cluster.get("workerGroupSpecs", []):
            for index in range(group["maxReplicas"]):
                yield f"{label(item)}, {group['groupName']} {index}", _requests(group["template"]["spec"])
    for item, spec in jobs(world):
        if label(item) not in finished:
            yield f"{label(item)}, submitter", _requests(spec["submitterPodTemplate"]["spec"])
    for template in templates(world, "pod"):
        yield template.where, _requests(template.spec)


def _requests(spec: Object, extra: Object | None = None) -> Room:
    """Of a pod: the containers together, or the largest init container if that is more."""
    running = [container["resources"] for container in spec["containers"]] + ([extra] if extra else [])
    starting = [container["resources"] for container in spec.get("initContainers", [])]
    return {
        resource: max(
            sum(quantity(one["requests"][resource]) for one in running),
            *(quantity(one["requests"][resource]) for one in starting), 0,
        )
        for resource in ("cpu", "memory")
    }  # fmt: skip
