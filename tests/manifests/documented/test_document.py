"""docs/kubernetes.md where it needs what kustomize renders: the small node, and the change from one overlay to another."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

import pytest

from tests.manifests.documented import document, node_room
from tests.manifests.documented.network_needs import NEEDS, admits
from tests.manifests.world import K8S, OVERLAYS, ROOT, World, load_files, load_rendered, program

_GIB = 2**30
_WHOLE = {"base": K8S} | {name: OVERLAYS / name for name in ("cpu", "prod", "s3", "incremental")}

pytestmark = pytest.mark.skipif(program("kubectl") is None, reason="kubectl renders what Kustomization files say")


@functools.cache
def _rendered(directory: str) -> World:
    return load_rendered(ROOT / directory)


@functools.cache
def _base() -> World:
    return load_files(K8S, K8S / "jobs")


# The small node


def test_everything_that_stands_at_one_time_fits_on_the_node_that_is_named() -> None:
    assert list(node_room.too_large(_base(), _rendered)) == []


def _text(old: str, new: str) -> Callable[[World], None]:
    def plant(world: World) -> None:
        assert old in world.texts[document.NAME]
        world.texts[document.NAME] = world.texts[document.NAME].replace(old, new)

    return plant


_WAIT = "    kubectl -n bert-agent wait rayjob/train --for=jsonpath='{.status.jobStatus}'=SUCCEEDED --timeout=6h\n"


@pytest.mark.parametrize(
    ("says", "plant"),
    [
        # As the document was: serving waits for the bundle, training for room.
        ("RayService agent, head", _text(" -l 'app.kubernetes.io/component!=serving'", "")),
        ("RayJob train, head", _text(_WAIT, "")),
        ("nothing is served", _text("    kubectl apply -k k8s-overlays/cpu\n", "")),
    ],
)
def test_an_order_that_does_not_fit_is_caught(says: str, plant: Callable[[World], None]) -> None:
    world = _base().copy()
    plant(world)
    assert [line for line in node_room.too_large(world, _rendered) if says in line]


def test_a_cluster_that_stays_after_its_job_is_counted() -> None:
    def stays(directory: str) -> World:
        world = _rendered(directory).copy()
        for item in world.of("RayJob"):
            item["spec"]["ttlSecondsAfterFinished"] = 600
        return world

    assert [
        line for line in node_room.too_large(_base(), stays) if "RayJob train" in line and "RayJob compress" in line
    ]


def test_the_table_of_the_small_node_is_what_adds_up() -> None:
    rows = re.findall(r"^\| (?:Kubernetes|these).*\| ([\d.]+) \| ([\d.]+) \|$", document.section(_base(), "Sizes"), re.MULTILINE)  # fmt: skip
    moments = list(node_room.moments(_base(), _rendered))
    phases = [moments[index] for index in (1, 3, 5)]  # training, compression, serving
    sums = [(node_room.OTHERS["cpu"], node_room.OTHERS["memory"]), *((one.total("cpu"), one.total("memory")) for one in phases)]  # fmt: skip
    assert rows == [(f"{cpus:.2f}", f"{memory / _GIB:.2f}") for cpus, memory in sums]


def test_minikubes_api_server_is_reached_in_the_overlay_for_it() -> None:
    (need,) = (need for need in NEEDS if need.cluster == "minikube")
    labels = {"app.kubernetes.io/instance": "serving", "app.kubernetes.io/component": need.pod}
    assert admits(list(_rendered("k8s-overlays/cpu").of("NetworkPolicy")), labels, need)


# From one overlay to another


def _kinds_left_behind() -> set[str]:
    names = {place: {(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in _rendered(str(path.relative_to(ROOT))).objects} for place, path in _WHOLE.items()}  # fmt: skip
    return {
        f"{version}/{kind}"
        for before in names.values() for after in names.values()
        for version, kind, _ in before - after
    }  # fmt: skip


def _pruned(text: str) -> set[str]:
    (words,) = [words for words in document.commands(text) if "--prune" in words]
    assert document.option(words, "-l") == "app.kubernetes.io/part-of=bert-agent"
    return {word.partition("=")[2] for word in words if word.startswith("--prune-allowlist=")}


def test_pruning_takes_what_an_overlay_leaves_and_nothing_that_another_folder_holds() -> None:
    pruned = _pruned(document.section(_base(), "Switching overlays"))
    assert pruned == _kinds_left_behind()
    beside = load_files(K8S / "jobs", K8S / "monitoring").objects
    assert not pruned & {f"{item['apiVersion']}/{item['kind']}" for item in beside}


def test_everything_that_an_overlay_applies_has_the_label_that_pruning_goes_by() -> None:
    for path in _WHOLE.values():
        for item in _rendered(str(path.relative_to(ROOT))).objects:
            assert item["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") == "bert-agent", item["metadata"]
