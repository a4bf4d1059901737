"""Locked down: PodSecurity restricted, read-only roots, no tokens, and a network in which only what must may talk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.manifests.world import Object, World, clusters, label, templates

METRICS = {8080, 44217, 44227, 9101}  # Ray, autoscaler, dashboard, HAProxy
_RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
_CIRCLE = "app.kubernetes.io/instance"


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
    if context.get("readOnlyRootFilesystem") is not True:  # beyond what PodSecurity asks
        yield f"{where}: the root file system can be written"
    if context.get("privileged"):
        yield f"{where}: privileged"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{where}: hostPort"


def tokens(world: World) -> Iterator[str]:
    """The autoscaler in the head needs its service account's token; nobody else does."""
    for template in templates(world):
        spec = template.owner["spec"]
        mounted = template.spec.get("automountServiceAccountToken", True)
        needed = template.role == "head" and bool(spec.get("rayClusterConfig", {}).get("enableInTreeAutoscaling"))
        if mounted != needed:
            yield f"{template.where}: automountServiceAccountToken is {mounted}, needed is {needed}"
        if not needed and "serviceAccountName" not in template.spec:
            yield f"{template.where}: runs as the namespace's default account"


@dataclass(frozen=True)
class _Rule:
    """What one rule of a policy lets in: who (as its peers say), at which ports (none: all)."""

    peers: tuple[Object, ...]
    ports: frozenset[int]


def network(world: World) -> Iterator[str]:
    """Everything is refused but what stands here: Ray within its circle, operator, Prometheus, callers, Redis."""
    if not any(_refuses_all(policy["spec"]) for policy in world.of("NetworkPolicy")):
        yield "no NetworkPolicy refuses what the others do not allow"
    for template in templates(world):
        rules = [rule for policy in world.of("NetworkPolicy") for rule in _let_in(policy["spec"], template.labels)]
        circle = template.labels.get(_CIRCLE)
        if template.role == "pod":
            continue
        if not any(not rule.ports and _from_circle(rule, circle) for rule in rules):
            yield f"{template.where}: its own circle, {circle}, may not reach it"
        if template.role != "submitter" and not any(rule.ports >= METRICS for rule in rules):
            yield f"{template.where}: Prometheus may not reach {sorted(METRICS)}"
        if template.role == "head" and not any(8265 in rule.ports for rule in rules):
            yield f"{template.where}: the operator may not reach 8265"
        for rule in rules:
            yield from (f"{template.where}: {text}" for text in _too_open(rule, circle))
    yield from _ways_out(world)


def _refuses_all(spec: Object) -> bool:
    return spec["podSelector"] == {} and set(spec["policyTypes"]) == {"Ingress", "Egress"} and not {"ingress", "egress"} & set(spec)  # fmt: skip


def _let_in(spec: Object, labels: dict[str, str]) -> Iterator[_Rule]:
    if matches(spec["podSelector"], labels):
        for rule in spec.get("ingress", []):
            yield _Rule(tuple(rule.get("from", [])), frozenset(port["port"] for port in rule.get("ports", [])))


def _from_circle(rule: _Rule, circle: str | None) -> bool:
    return circle is not None and any(
        "namespaceSelector" not in peer and matches(peer.get("podSelector", {}), {_CIRCLE: circle})
        for peer in rule.peers
    )


def _too_open(rule: _Rule, circle: str | None) -> Iterator[str]:
    if not rule.peers:
        yield "anybody may reach it"
    if not rule.ports and not _from_circle(rule, circle):
        yield "somebody from outside its circle may reach every port"
    operator = [peer for peer in rule.peers if peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component") == "kuberay-operator"]  # fmt: skip
    if 8265 in rule.ports and (len(operator) != len(rule.peers)):
        yield "somebody beside the operator may reach the dashboard"


def _ways_out(world: World) -> Iterator[str]:
    """Every pod may ask for names; Ray may reach HTTPS outside and its circle."""
    for template in templates(world):
        out = [rule for policy in world.of("NetworkPolicy") if matches(policy["spec"]["podSelector"], template.labels) for rule in policy["spec"].get("egress", [])]  # fmt: skip
        ports = {(port["protocol"], port["port"]) for rule in out for port in rule.get("ports", [])}
        wanted = {("UDP", 53), ("TCP", 53)} | ({("TCP", 443)} if template.role != "pod" else set())
        if template.role == "head" and template.owner["kind"] == "RayService":
            wanted |= {("TCP", 6443), ("TCP", 6379)}  # API server, Redis
        for protocol, port in sorted(wanted - ports):
            yield f"{template.where}: may not reach {protocol} {port}"
        if any("to" not in rule for rule in out):
            yield f"{template.where}: may reach everything"


def matches(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", f"not an operator that these manifests use: {rule['operator']}"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


CHECKS = (pod_security, tokens, network)
