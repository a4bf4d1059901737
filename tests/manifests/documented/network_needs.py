"""What some clusters need beside 06-network.yaml's rules: lines that stand there as comments, one set for each cluster."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

import kubernetes_validate
import yaml

from tests.manifests.documented.document import NAME, section
from tests.manifests.schema_checks import KUBERNETES
from tests.manifests.security_checks import matches
from tests.manifests.world import Object, World, templates

_FILE = "k8s/06-network.yaml"
_NAMESPACE = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Need:
    """A connection. `peer` is an address or a namespace, at the other end; `pod` our end, by its component."""

    cluster: str
    way: str  # ingress, egress
    pod: str
    peer: str
    protocol: str
    port: int


NEEDS = (
    Need("NodeLocal DNSCache", "egress", "serving-head", "169.254.20.10", "UDP", 53),
    Need("NodeLocal DNSCache", "egress", "training-worker", "169.254.20.10", "TCP", 53),
    Need("OpenShift", "egress", "serving-head", "openshift-dns", "UDP", 5353),
    Need("OpenShift", "egress", "serving-worker", "openshift-dns", "TCP", 5353),
    Need("minikube", "egress", "serving-head", "192.168.49.2", "TCP", 8443),
    Need("IPv6", "egress", "serving-head", "2001:db8::1", "TCP", 443),
    Need("IPv6", "egress", "serving-head", "fd00::1", "TCP", 6443),
    Need("ingress-nginx on the host's network", "ingress", "serving-worker", "10.0.3.7", "TCP", 8000),
)


def network_needs(world: World) -> Iterator[str]:
    """Without its lines each cluster is cut off; with them, and the schema still holds, it is not; the document names each."""
    text = world.texts[_FILE]
    labels = {template.labels.get("app.kubernetes.io/component", ""): template.labels for template in templates(world)}
    described = section(world, "Network")
    for cluster in dict.fromkeys(need.cluster for need in NEEDS):
        if cluster not in described:
            yield f"{NAME}: Network: says nothing of {cluster}"
        policies = [item for item in yaml.safe_load_all(uncomment(text, cluster)) if item]
        for item in policies:
            try:
                kubernetes_validate.validate(item, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{_FILE}: with the lines of {cluster}: {error.message}"
        for need in (need for need in NEEDS if need.cluster == cluster):
            if admits(list(world.of("NetworkPolicy")), labels[need.pod], need):
                yield f"{_FILE}: the lines of {cluster} are there already"
            if not admits(policies, labels[need.pod], need):
                yield f"{_FILE}: with the lines of {cluster}: {need.pod} is still cut off from {need.peer}, {need.protocol} {need.port}"


def uncomment(text: str, cluster: str) -> str:
    """The file with the lines of one cluster: `# ` goes before those that end in its name."""
    return re.sub(rf"^( *)# (- .* # {re.escape(cluster)})$", r"\1\2", text, flags=re.MULTILINE)


def admits(policies: list[Object], labels: dict[str, str], need: Need) -> bool:
    """Whether some policy that selects a pod allows a connection."""
    peers = {"ingress": "from", "egress": "to"}[need.way]
    return any(
        any(_is(peer, need.peer) for peer in rule.get(peers, []))
        and any((port["protocol"], port["port"]) == (need.protocol, need.port) for port in rule.get("ports", []))
        for item in policies
        if matches(item["spec"]["podSelector"], labels)
        for rule in item["spec"].get(need.way, [])
    )


def _is(peer: Object, place: str) -> bool:
    if "ipBlock" not in peer:
        return "namespaceSelector" in peer and matches(peer["namespaceSelector"], {_NAMESPACE: place})
    try:
        return ipaddress.ip_address(place) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    except ValueError:  # a namespace
        return False


CHECKS = (network_needs,)
