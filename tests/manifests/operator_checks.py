"""Rules of the KubeRay operator 1.7.0 that the API server does not know. Knows nothing of our own code.

Each check takes a World and yields one sentence for each thing that is wrong. The API server accepts much that the
operator refuses later, in events and its log only (facts-k8s.md, rules 8 to 12), so the rules stand here again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.manifests.security_checks import matches
from tests.manifests.world import Object, World, clusters, jobs, label, templates

_NAME_LENGTHS = {"RayCluster": 53, "RayService": 47, "RayJob": 47, "RayCronJob": 36}
_TOKEN_AUTH_SINCE = (2, 52, 0)
_SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")  # the CRD takes any string
_REFUSED_ENV = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"}
_INCREMENTAL = "NewClusterWithIncrementalUpgrade"
_UPGRADES = ("NewCluster", _INCREMENTAL, "None")  # the CRD takes any string
# The operator's pod, by the way in which it was installed: helm-chart/kuberay-operator and ray-operator/config/manager of v1.7.0.
_INSTALLS = {
    "Helm's chart": {
        "app.kubernetes.io/name": "kuberay-operator",
        "app.kubernetes.io/instance": "kuberay-operator",
        "app.kubernetes.io/component": "kuberay-operator",
    },
    "kustomize's install": {
        "app.kubernetes.io/name": "kuberay",
        "app.kubernetes.io/component": "kuberay-operator",
    },
}
_NAMESPACE = "kubernetes.io/metadata.name"
_OPERATOR_NAMESPACE = "kuberay-system"
_OPERATOR_PORT = "http"  # 8080 in both


def names(world: World) -> Iterator[str]:
    """The operator appends to names, so they are shorter than Kubernetes allows."""
    for item in world.objects:
        name, longest = item["metadata"].get("name", ""), _NAME_LENGTHS.get(item["kind"], 63)
        if len(name) > longest:
            yield f"{label(item)}: name has {len(name)} characters, allowed are {longest}"
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            yield f"{label(item)}: name is no DNS-1035 label"


def job_policies(world: World) -> Iterator[str]:
    """What a RayJob may not combine, and what ours always says."""
    for item, spec in jobs(world):
        yield from (f"{label(item)}: {text}" for text in (*_endings(spec), *_submission(spec)))
        if missing := {"backoffLimit", "activeDeadlineSeconds", "preRunningDeadlineSeconds"} - set(spec):
            yield f"{label(item)}: {', '.join(sorted(missing))} not set: it could wait or run for ever"


def _endings(spec: Object) -> Iterator[str]:
    strategy = spec.get("deletionStrategy", {})
    ends = {key for key in ("shutdownAfterJobFinishes", "ttlSecondsAfterFinished") if spec.get(key)}
    if "deletionRules" in strategy and ends:
        yield f"deletionRules exclude {', '.join(sorted(ends))}"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if not ends and not strategy:
        yield "nothing ends its cluster"
    if "DeleteWorkers" in str(strategy) and spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
        yield "DeleteWorkers excludes autoscaling"


def _submission(spec: Object) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if "backoffLimit" in spec and ("clusterSelector" in spec or mode == "InteractiveMode"):
        yield "backoffLimit excludes clusterSelector and InteractiveMode"
    if mode not in _SUBMISSION_MODES:
        yield f"submissionMode is {mode}; allowed are {', '.join(_SUBMISSION_MODES)}"
    if mode == "K8sJobMode" and "submitterPodTemplate" not in spec:
        yield "K8sJobMode without submitterPodTemplate is refused under PodSecurity restricted"
    if mode == "SidecarMode":
        yield "SidecarMode is refused under PodSecurity restricted"


def schedules(world: World) -> Iterator[str]:
    """A RayCronJob's schedule has five fields, and one run ends before the next is due. Runs that are made up: script_checks."""
    for item in world.of("RayCronJob"):
        fields = str(item["spec"].get("schedule", "")).split()
        if len(fields) != 5 or not all(re.fullmatch(r"[0-9*,/-]+", field) for field in fields):
            yield f"{label(item)}: schedule {item['spec'].get('schedule')!r} is not five fields of cron"
        elif fields[4] == "*" and int(item["spec"]["jobTemplate"].get("activeDeadlineSeconds", 0)) >= 86_400:
            yield f"{label(item)}: runs daily and may take a day: two would run at once"


def auth(world: World) -> Iterator[str]:
    """Every cluster wants a token, and its Ray knows tokens."""
    for item, cluster in clusters(world):
        options = cluster.get("authOptions", {})
        if options.get("mode") != "token":
            yield f"{label(item)}: authOptions.mode is {options.get('mode')}, not token"
        if tuple(int(part) for part in cluster.get("rayVersion", "0").split(".")) < _TOKEN_AUTH_SINCE:
            yield f"{label(item)}: authOptions need rayVersion 2.52.0 or later"
        if options.get("enableK8sTokenAuth") and item["kind"] != "RayCluster":
            yield f"{label(item)}: enableK8sTokenAuth is not for a {item['kind']}"


def refused_settings(world: World) -> Iterator[str]:
    """Settings that the operator refuses, or that ours must not touch."""
    for item, cluster in clusters(world):
        groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
        if any("labels" in group.get("rayStartParams", {}) for group in groups):
            yield f"{label(item)}: rayStartParams.labels is refused; use labels"
        workers = cluster.get("workerGroupSpecs")
        if workers and cluster["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
            yield f'{label(item)}: the head takes work from its workers; set rayStartParams num-cpus to "0"'
    for template in templates(world, "head", "worker", "submitter"):
        for container in template.containers:
            if names := _REFUSED_ENV & {entry["name"] for entry in container.get("env", [])}:
                yield f"{template.where}: {', '.join(sorted(names))} is refused; use gcsFaultToleranceOptions"
            if probes := [key for key in container if key.endswith("Probe")]:
                yield f"{template.where}: {', '.join(probes)} replaces KubeRay's own"


def upgrades(world: World) -> Iterator[str]:
    """What an incremental upgrade needs."""
    for item in world.of("RayService"):
        strategy = item["spec"].get("upgradeStrategy", {})
        options = strategy.get("clusterUpgradeOptions", {})
        if strategy.get("type") not in _UPGRADES:
            yield f"{label(item)}: upgradeStrategy.type is {strategy.get('type')}; allowed are {', '.join(_UPGRADES)}"
        if strategy.get("type") != _INCREMENTAL:
            continue
        if not item["spec"]["rayClusterConfig"].get("enableInTreeAutoscaling"):
            yield f"{label(item)}: an incremental upgrade needs autoscaling"
        if not options.get("gatewayClassName"):
            yield f"{label(item)}: an incremental upgrade needs gatewayClassName"
        if not 0 < options.get("stepSizePercent", 0) <= options.get("maxSurgePercent", 100):
            yield f"{label(item)}: stepSizePercent is not above 0 and at most maxSurgePercent"
        if options.get("intervalSeconds", 0) <= 0:
            yield f"{label(item)}: intervalSeconds is not above 0"


def fault_tolerance(world: World) -> Iterator[str]:
    """A RayService keeps its state in Redis, each of its clusters in a name space of its own."""
    for item in world.of("RayService"):
        options = item["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions", {})
        if not options.get("redisAddress") or "valueFrom" not in options.get("redisPassword", {}):
            yield f"{label(item)}: gcsFaultToleranceOptions names no Redis with a password from a Secret"
        if "externalStorageNamespace" in options:
            yield f"{label(item)}: externalStorageNamespace is fixed: both clusters of an upgrade would write to it"
        if any(key.startswith("ray.io/ft-enabled") for key in item["metadata"].get("annotations", {})):
            yield f"{label(item)}: ray.io/ft-enabled and gcsFaultToleranceOptions exclude each other"


def operator_pods(world: World) -> Iterator[str]:
    """What selects the operator's pod finds it, however the operator was installed, and scrapes the port that it has."""
    for where, selector in _operator_selectors(world):
        for install, labels in _INSTALLS.items():
            if not matches(selector, labels):
                yield f"{where}: does not select the operator of {install} ({selector})"
    for item in world.of("PodMonitor"):
        for endpoint in item["spec"]["podMetricsEndpoints"]:
            if item["metadata"]["name"] == "kuberay-operator" and endpoint.get("port") != _OPERATOR_PORT:
                yield f"{label(item)}: scrapes port {endpoint.get('port')}, the operator's is called {_OPERATOR_PORT}"


def _operator_selectors(world: World) -> Iterator[tuple[str, Object]]:
    for item in world.of("NetworkPolicy"):
        for rule in item["spec"].get("ingress", []):
            for peer in rule.get("from", []):
                if peer.get("namespaceSelector", {}).get("matchLabels", {}).get(_NAMESPACE) == _OPERATOR_NAMESPACE:
                    yield label(item), peer.get("podSelector", {})
    for item in world.of("PodMonitor"):
        if item["metadata"]["name"] == "kuberay-operator":
            yield label(item), item["spec"]["selector"]


CHECKS = (names, job_policies, schedules, auth, refused_settings, upgrades, fault_tolerance, operator_pods)
