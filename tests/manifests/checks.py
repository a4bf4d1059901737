"""Rules of Kubernetes and of the KubeRay operator 1.7.0. Knows nothing of our own code.

Each check takes a World and yields one sentence for each thing that is wrong. The API server accepts much that the
operator refuses later, in events and its log only (facts-k8s.md, rules 8 to 12), so the rules stand here again.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.manifests.world import CRDS, Template, World, clusters, label, quantity, templates

KUBERNETES = "1.36"
RAY_GROUP = "ray.io/v1"
SERVE_PORT = "serve"
GRACE_S = 90  # Ray drains for 30 s; an ingress replica stays for 35 s at least
_NAME_LENGTHS = {"RayCluster": 53, "RayService": 47, "RayJob": 47, "RayCronJob": 36}
_TOKEN_AUTH_SINCE = (2, 52, 0)
_METRICS_PORTS = {"as-metrics": 44217, "dash-metrics": 44227}
_SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")  # the CRD takes any string
_REFUSED_ENV = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"}
_RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


# Schemas


def core_schemas(world: World) -> Iterator[str]:
    """Core kinds, and the pod templates of the Ray kinds as pods, against the strict schemas of Kubernetes."""
    pods = [
        (item.where, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": item.spec})
        for item in templates(world)
    ]
    core = [(label(item), item) for item in world.objects if item["apiVersion"] != RAY_GROUP]
    for where, item in core + pods:
        try:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{where}: {error.message}"


def crd_schemas(world: World) -> Iterator[str]:
    """Ray kinds against the operator's CustomResourceDefinitions, closed: an unknown field is a mistake."""
    for item in world.of("RayService", "RayJob", "RayCluster"):
        for error in _validator(item["kind"]).iter_errors(item):
            yield f"{label(item)}: {error.json_path}: {error.message[:200]}"


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    text = (CRDS / f"ray.io_{kind.lower()}s.yaml").read_text()
    versions = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return jsonschema.Draft202012Validator(_close(schema))


def _close(schema: Any) -> Any:
    """Refuses fields that are not declared; a field with a default is not required of the author."""
    if isinstance(schema, list):
        return [_close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _close(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and "type" in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        if isinstance(schema.get("required"), list):
            closed["required"] = [key for key in schema["required"] if "default" not in properties.get(key, {})]
    return closed


# Rules of the operator


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
    for item in world.of("RayJob"):
        spec, mode = item["spec"], item["spec"].get("submissionMode", "K8sJobMode")
        strategy = spec.get("deletionStrategy", {})
        ends = {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & {key for key, value in spec.items() if value}
        if "deletionRules" in strategy and ends:
            yield f"{label(item)}: deletionRules exclude {', '.join(sorted(ends))}"
        if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
            yield f"{label(item)}: ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
        if not ends and not strategy:
            yield f"{label(item)}: nothing ends its cluster"
        if "DeleteWorkers" in str(strategy) and spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
            yield f"{label(item)}: DeleteWorkers excludes autoscaling"
        if "backoffLimit" in spec and ("clusterSelector" in spec or mode == "InteractiveMode"):
            yield f"{label(item)}: backoffLimit excludes clusterSelector and InteractiveMode"
        if mode not in _SUBMISSION_MODES:
            yield f"{label(item)}: submissionMode is {mode}; allowed are {', '.join(_SUBMISSION_MODES)}"
        if mode == "K8sJobMode" and "submitterPodTemplate" not in spec:
            yield f"{label(item)}: K8sJobMode without submitterPodTemplate is refused under PodSecurity restricted"
        if mode == "SidecarMode":
            yield f"{label(item)}: SidecarMode is refused under PodSecurity restricted"
        if missing := {"backoffLimit", "activeDeadlineSeconds", "preRunningDeadlineSeconds"} - set(spec):
            yield f"{label(item)}: {', '.join(sorted(missing))} not set: it could wait or run for ever"


def auth(world: World) -> Iterator[str]:
    """Every cluster wants a token, and its Ray knows tokens."""
    for item, cluster in clusters(world):
        options = cluster.get("authOptions", {})
        if options.get("mode") != "token":
            yield f"{label(item)}: authOptions.mode is {options.get('mode')}, not token"
        if tuple(int(part) for part in cluster.get("rayVersion", "0").split(".")) < _TOKEN_AUTH_SINCE:
            yield f"{label(item)}: authOptions need rayVersion 2.52.0 or later"
        if options.get("enableK8sTokenAuth") and item["kind"] in ("RayJob", "RayService"):
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
    for template in templates(world):
        for container in template.containers:
            if names := _REFUSED_ENV & {entry["name"] for entry in container.get("env", [])}:
                yield f"{template.where}: {', '.join(sorted(names))} is refused; use gcsFaultToleranceOptions"
            if probes := [key for key in container if key.endswith("Probe")]:
                yield f"{template.where}: {', '.join(probes)} replaces KubeRay's own"


# Security


def pod_security(world: World) -> Iterator[str]:
    """PodSecurity restricted, on every container that will run, the autoscaler's sidecar included."""
    for template in templates(world):
        spec = template.spec
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(key):
                yield f"{template.where}: {key}"
        for volume in spec.get("volumes", []):
            if kinds := set(volume) - {"name"} - _RESTRICTED_VOLUMES:
                yield f"{template.where}: volume {volume['name']} is a {', '.join(kinds)}"
        for container in template.containers:
            context = spec.get("securityContext", {}) | container.get("securityContext", {})
            yield from _restricted(f"{template.where}, {container['name']}", context, container)
    for item, cluster in clusters(world):
        if cluster.get("enableInTreeAutoscaling"):
            context = cluster.get("autoscalerOptions", {}).get("securityContext", {})
            yield from _restricted(f"{label(item)}, autoscaler", context, {})
    for item in world.of("Namespace"):
        if item["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{label(item)}: does not enforce PodSecurity restricted"


def _restricted(where: str, context: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: allowPrivilegeEscalation is not false"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
        yield f"{where}: capabilities are not dropped"
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        yield f"{where}: may run as root"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where}: seccompProfile is not RuntimeDefault"
    if context.get("privileged"):
        yield f"{where}: privileged"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{where}: hostPort"


def tokens(world: World) -> Iterator[str]:
    """The autoscaler in the head needs its service account's token; nobody else does."""
    for template in templates(world):
        cluster = template.owner["spec"].get("rayClusterConfig") or template.owner["spec"].get("rayClusterSpec", {})
        mounted = template.spec.get("automountServiceAccountToken", True)
        needed = template.role == "head" and bool(cluster.get("enableInTreeAutoscaling"))
        if mounted != needed:
            yield f"{template.where}: automountServiceAccountToken is {mounted}, needed is {needed}"


# References


def references(world: World) -> Iterator[str]:
    """Namespaces, claims, service accounts, secrets and config maps that are named exist."""
    have = {(item["kind"], item["metadata"].get("name")) for item in world.objects}
    for item in world.objects:
        if item["kind"] != "Namespace" and ("Namespace", item["metadata"].get("namespace")) not in have:
            yield f"{label(item)}: namespace {item['metadata'].get('namespace')} is not among the files"
    for template in templates(world):
        for kind, name in _references(template):
            if (kind, name) not in have:
                yield f"{template.where}: {kind} {name} is not among the files"


def _references(template: Template) -> Iterator[tuple[str, str]]:
    if account := template.spec.get("serviceAccountName"):
        yield "ServiceAccount", account
    for volume in template.spec.get("volumes", []):
        for key, kind, field in (
            ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ("secret", "Secret", "secretName"),
            ("configMap", "ConfigMap", "name"),
        ):
            if key in volume:
                yield kind, volume[key][field]
    for container in template.containers:
        for entry in container.get("env", []):
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                if key in entry.get("valueFrom", {}):
                    yield kind, entry["valueFrom"][key]["name"]
        for entry in container.get("envFrom", []):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in entry:
                    yield kind, entry[key]["name"]


def volumes(world: World) -> Iterator[str]:
    """Mounts have volumes; Ray can write where it must; its object store fits into /dev/shm."""
    for template in templates(world):
        declared = {volume["name"]: volume for volume in template.spec.get("volumes", [])}
        for container in template.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in declared:
                    yield f"{template.where}: {container['name']} mounts {mount['name']}, which is no volume"
        if template.role == "submitter":
            continue
        mounts = {mount["mountPath"]: mount for mount in template.ray.get("volumeMounts", [])}
        for path in ("/tmp", "/dev/shm"):
            if path not in mounts or mounts[path].get("readOnly"):
                yield f"{template.where}: {path} is not writable"
    for item, cluster in clusters(world):
        for group in [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]:
            sizes = [volume.get("emptyDir", {}).get("sizeLimit") for volume in group["template"]["spec"].get("volumes", []) if volume["name"] == "shm"]  # fmt: skip
            store = float(group.get("rayStartParams", {}).get("object-store-memory", "inf"))
            if store > min((quantity(size) for size in sizes if size), default=0):
                yield f"{label(item)}: object-store-memory {store:.0f} does not fit into /dev/shm {sizes}"


def selectors(world: World) -> Iterator[str]:
    """Labels that something selects by are on some pod."""
    pods = [template.body.get("metadata", {}).get("labels", {}) for template in templates(world)]
    wanted = [
        (template.where, constraint.get("labelSelector", {}))
        for template in templates(world)
        for constraint in template.spec.get("topologySpreadConstraints", [])
    ]
    wanted += [(label(item), {"matchLabels": item["spec"].get("selector", {})}) for item in world.of("Service")]
    wanted += [(label(item), item["spec"].get("selector", {})) for item in world.of("PodDisruptionBudget")]
    for where, selector in wanted:
        labels = {key: value for key, value in selector.get("matchLabels", {}).items() if not key.startswith("ray.io/")}
        if not any(labels.items() <= pod.items() for pod in pods):
            yield f"{where}: no pod has the labels {labels}"


def ports(world: World) -> Iterator[str]:
    """The head shows the metrics ports that the official PodMonitor reads; KubeRay adds 8080 itself."""
    for template in templates(world):
        found = {port["name"]: port["containerPort"] for port in template.ray.get("ports", [])}
        if len(found) != len(template.ray.get("ports", [])):
            yield f"{template.where}: two ports of one name"
        for name, port in _METRICS_PORTS.items() if template.role == "head" else ():
            if found.get(name) != port:
                yield f"{template.where}: port {name} is {found.get(name)}, not {port}"


def resources(world: World) -> Iterator[str]:
    """Requests equal limits, so that pods are evicted last; leaving takes its time."""
    for template in templates(world):
        for container in template.containers:
            wanted = container.get("resources", {})
            if not wanted.get("limits") or wanted.get("requests") != wanted["limits"]:
                yield f"{template.where}: {container['name']} has requests that are not its limits"
        if template.role != "submitter" and template.spec.get("terminationGracePeriodSeconds", 30) < GRACE_S:
            yield f"{template.where}: terminationGracePeriodSeconds is below {GRACE_S}"


CHECKS = (
    core_schemas, crd_schemas, names, job_policies, auth, refused_settings, pod_security, tokens, references, volumes,
    selectors, ports, resources,
)  # fmt: skip
