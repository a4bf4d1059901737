"""What Kubernetes itself makes of the objects together: references, volumes, selectors, ports, sizes, disruption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.manifests.security_checks import matches
from tests.manifests.world import Object, Template, World, clusters, jobs, label, quantity, templates

SERVE_PORT = "serve"
GRACE_S = 90  # Ray drains for 30 s; an ingress replica stays for 35 s at least
_METRICS_PORTS = {"as-metrics": 44217, "dash-metrics": 44227}
_PROXY_METRICS = ("proxy-metrics", 9101)
_NO_SECRETS = {"AWS_REGION"}
_CLUSTER_WIDE = {"Namespace", "PriorityClass"}
_LABELLED_BY_OTHERS = ("ray.io/", "gateway.networking.k8s.io/")


def references(world: World) -> Iterator[str]:
    """Namespaces, claims, accounts, priorities, secrets, config maps and services that are named exist."""
    have = {(item["kind"], item["metadata"].get("name")) for item in [*world.objects, *world.examples]}
    have |= {("Service", f"{item['metadata']['name']}-serve-svc") for item in world.of("RayService")}
    for item in world.objects:
        namespace = item["metadata"].get("namespace")
        if item["kind"] not in _CLUSTER_WIDE and ("Namespace", namespace) not in have:
            yield f"{label(item)}: namespace {namespace} is not among the files"
    for template in templates(world):
        for kind, name in _references(template):
            if (kind, name) not in have:
                yield f"{template.where}: {kind} {name} is not among the files"
    for where, kind, name in _references_beside(world):
        if (kind, name) not in have:
            yield f"{where}: {kind} {name} is not among the files"


def _references(template: Template) -> Iterator[tuple[str, str]]:
    for key, kind in (("serviceAccountName", "ServiceAccount"), ("priorityClassName", "PriorityClass")):
        if key in template.spec:
            yield kind, template.spec[key]
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


def _references_beside(world: World) -> Iterator[tuple[str, str, str]]:
    for item, cluster in clusters(world):
        if options := cluster.get("gcsFaultToleranceOptions"):
            yield label(item), "Service", options["redisAddress"].partition(":")[0]
            yield label(item), "Secret", options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"]
    for item in world.of("StatefulSet"):
        yield label(item), "Service", item["spec"]["serviceName"]
    for item in world.of("Ingress"):
        yield from ((label(item), "Secret", entry["secretName"]) for entry in item["spec"].get("tls", []))
        yield from ((label(item), "Service", backend["name"]) for backend in _backends(item))


def _backends(item: Object) -> list[Any]:
    return [path["backend"]["service"] for rule in item["spec"]["rules"] for path in rule["http"]["paths"]]


def keys(world: World) -> Iterator[str]:
    """A key that is taken out of a Secret is in the example of that Secret."""
    held = {
        item["metadata"]["name"]: {**item.get("stringData", {}), **item.get("data", {})}
        for item in world.examples
        if item["kind"] == "Secret"
    }
    wanted = [
        (template.where, entry["valueFrom"]["secretKeyRef"])
        for template in templates(world)
        for container in template.containers
        for entry in container.get("env", [])
        if "secretKeyRef" in entry.get("valueFrom", {})
    ]
    wanted += [
        (label(item), cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"])
        for item, cluster in clusters(world)
        if "gcsFaultToleranceOptions" in cluster
    ]
    for where, reference in wanted:
        if reference["key"] not in held.get(reference["name"], {}):
            yield f"{where}: Secret {reference['name']} has no key {reference['key']}"
    for item in [*world.objects, *world.examples]:
        if item["kind"] == "Secret" and item in world.objects:
            yield f"{label(item)}: a Secret among what is applied"
        for key, value in item.get("stringData", {}).items():
            if key not in _NO_SECRETS and value.strip() != "CHANGE-ME":
                yield f"{label(item)}: {key} may be a real secret"


def volumes(world: World) -> Iterator[str]:
    """Mounts have volumes; Ray can write where it must; its object store fits into /dev/shm; /tmp has an end."""
    for template in templates(world):
        declared = {volume["name"]: volume for volume in template.spec.get("volumes", [])}
        declared |= {
            claim["metadata"]["name"]: claim for claim in template.owner["spec"].get("volumeClaimTemplates", [])
        }
        for container in template.containers:
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in declared:
                    yield f"{template.where}: {container['name']} mounts {mount['name']}, which is no volume"
        for name, volume in declared.items():
            if "sizeLimit" not in volume.get("emptyDir", {"sizeLimit": ""}):
                yield f"{template.where}: {name} can fill the node"
        if template.role in ("head", "worker"):
            mounts = {mount["mountPath"]: mount for mount in template.ray.get("volumeMounts", [])}
            for path in ("/tmp", "/dev/shm"):
                if path not in mounts or mounts[path].get("readOnly"):
                    yield f"{template.where}: {path} is not writable"
    for item, cluster in clusters(world):
        yield from _object_stores(item, cluster)


def _object_stores(item: Object, cluster: Object) -> Iterator[str]:
    for group in [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]:
        sizes = [volume.get("emptyDir", {}).get("sizeLimit") for volume in group["template"]["spec"].get("volumes", []) if volume["name"] == "shm"]  # fmt: skip
        store = float(group.get("rayStartParams", {}).get("object-store-memory", "inf"))
        if store > min((quantity(size) for size in sizes if size), default=0):
            yield f"{label(item)}: object-store-memory {store:.0f} does not fit into /dev/shm {sizes}"
        memory = quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        if sizes and quantity(sizes[0]) > memory / 2:
            yield f"{label(item)}: /dev/shm of {sizes[0]} counts as memory and may take more than half of the pod's"


def selectors(world: World) -> Iterator[str]:
    """Labels that something selects by are on some pod."""
    pods = [template.labels for template in templates(world)]
    for where, selector in _selectors(world):
        keys = [*selector.get("matchLabels", {}), *(rule["key"] for rule in selector.get("matchExpressions", []))]
        if any(key.startswith(_LABELLED_BY_OTHERS) for key in keys):
            continue
        if not any(matches(selector, pod) for pod in pods):
            yield f"{where}: no pod has the labels {selector}"


def _selectors(world: World) -> Iterator[tuple[str, Object]]:
    for template in templates(world):
        for constraint in template.spec.get("topologySpreadConstraints", []):
            yield template.where, constraint.get("labelSelector", {})
    for item in world.of("Service"):
        yield label(item), {"matchLabels": item["spec"].get("selector", {})}
    for item in world.of("PodDisruptionBudget", "StatefulSet"):
        yield label(item), item["spec"].get("selector", {})
    for item in world.of("NetworkPolicy"):
        yield label(item), item["spec"]["podSelector"]
        for rule in (*item["spec"].get("ingress", []), *item["spec"].get("egress", [])):
            for peer in (*rule.get("from", []), *rule.get("to", [])):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield label(item), peer["podSelector"]


def ports(world: World) -> Iterator[str]:
    """The head shows the metrics ports that the official PodMonitor reads, serving HAProxy's; KubeRay adds 8080 itself."""
    for template in templates(world):
        found = {port["name"]: port["containerPort"] for port in template.ray.get("ports", [])}
        if len(found) != len(template.ray.get("ports", [])):
            yield f"{template.where}: two ports of one name"
        wanted = dict(_METRICS_PORTS) if template.role == "head" else {}
        if template.owner["kind"] == "RayService":
            wanted[_PROXY_METRICS[0]] = _PROXY_METRICS[1]
        for name, port in wanted.items():
            if found.get(name) != port:
                yield f"{template.where}: port {name} is {found.get(name)}, not {port}"
    named = {port["name"]: port["containerPort"] for template in templates(world, "pod") for port in template.ray.get("ports", [])}  # fmt: skip
    for item in world.of("Service"):
        for port in item["spec"]["ports"]:
            if port["targetPort"] not in named:
                yield f"{label(item)}: targetPort {port['targetPort']} is no port of a pod"
    for item, cluster in clusters(world):
        redis = cluster.get("gcsFaultToleranceOptions", {}).get("redisAddress", ":6379").partition(":")[2]
        if int(redis) not in named.values() and "gcsFaultToleranceOptions" in cluster:
            yield f"{label(item)}: redisAddress has port {redis}, Redis listens at {named}"


def resources(world: World) -> Iterator[str]:
    """Requests equal limits, so that pods are evicted last; leaving takes its time."""
    for template in templates(world):
        for container in template.containers:
            wanted = container.get("resources", {})
            if not wanted.get("limits") or wanted.get("requests") != wanted["limits"]:
                yield f"{template.where}: {container['name']} has requests that are not its limits"
        grace = template.spec.get("terminationGracePeriodSeconds", 30)
        stop = template.ray.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if template.role in ("head", "worker") and grace < GRACE_S + stop:
            yield f"{template.where}: terminationGracePeriodSeconds is below {GRACE_S + stop}"
        if template.role == "worker" and template.owner["kind"] == "RayService" and not stop:
            yield f"{template.where}: no preStop: the Service would send to a pod that has gone"


def disruption(world: World) -> Iterator[str]:
    """Budgets count pods of custom resources by minAvailable alone, and leave a drain something to take."""
    groups = {
        template.where: (template.labels, group["minReplicas"])
        for item, cluster in clusters(world)
        for group in cluster.get("workerGroupSpecs", [])
        for template in templates(world.only(item), "worker")
    }
    for item in world.of("PodDisruptionBudget"):
        spec = item["spec"]
        for where, (labels, least) in groups.items():
            if not matches(spec["selector"], labels):
                continue
            if not isinstance(spec.get("minAvailable"), int):
                yield f"{label(item)}: {where}: only a number below minAvailable works for pods of a custom resource"
            elif spec["minAvailable"] >= least:
                yield f"{label(item)}: minAvailable {spec['minAvailable']}, but {where} may have {least}: no node could be drained"
    priorities = {item["metadata"]["name"]: item["value"] for item in world.of("PriorityClass")}
    values = {template.owner["kind"]: priorities.get(template.spec.get("priorityClassName", ""), 0) for template in templates(world)}  # fmt: skip
    if any(values["RayService"] <= value for kind, value in values.items() if kind in ("RayJob", "RayCronJob")):
        yield f"training could take the place of serving: priorities are {values}"


def quota(world: World) -> Iterator[str]:
    """The quota holds the largest service twice, as an upgrade needs, and every job at once."""
    for item in world.of("ResourceQuota"):
        hard = {key.removeprefix("requests."): quantity(value) for key, value in item["spec"]["hard"].items() if key.startswith("requests.")}  # fmt: skip
        needed = _largest(world)
        for name in sorted(needed):
            if needed[name] > hard.get(name, 0):
                yield f"{label(item)}: {name}: {needed[name]:g} needed at most, {hard.get(name, 0):g} allowed"


def _largest(world: World) -> dict[str, float]:
    total: dict[str, float] = {}

    def add(resources: Object, times: float) -> None:
        for name, value in resources.get("limits", {}).items():
            total[name] = total.get(name, 0) + times * quantity(value)

    for item, cluster in clusters(world):
        times = 2 if item["kind"] == "RayService" else 1
        add(cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"], times)
        if cluster.get("enableInTreeAutoscaling"):
            add(cluster["autoscalerOptions"]["resources"], times)
        for group in cluster.get("workerGroupSpecs", []):
            add(group["template"]["spec"]["containers"][0]["resources"], times * group["maxReplicas"])
    for _, spec in jobs(world):
        add(spec["submitterPodTemplate"]["spec"]["containers"][0]["resources"], 1)
    for item in world.of("StatefulSet"):
        add(item["spec"]["template"]["spec"]["containers"][0]["resources"], item["spec"]["replicas"])
    for item in world.of("Pod"):
        add(item["spec"]["containers"][0]["resources"], 1)
    return total


def ingress(world: World) -> Iterator[str]:
    """From outside only over TLS, and only to the agent's own port."""
    for item in world.of("Ingress"):
        spec = item["spec"]
        covered = {host for entry in spec.get("tls", []) for host in entry["hosts"]}
        for rule in spec["rules"]:
            if rule.get("host") not in covered:
                yield f"{label(item)}: host {rule.get('host')} has no TLS"
        for backend in _backends(item):
            if not backend["name"].endswith("-serve-svc"):
                yield f"{label(item)}: leads to {backend['name']}, which is not the agent"


def monitors(world: World) -> Iterator[str]:
    """What is scraped is a port by its name, and of Ray only pods that run: one whose init container waits is not down."""
    for item in world.of("PodMonitor"):
        ray = any(key.startswith("ray.io/") for key in item["spec"]["selector"]["matchLabels"])
        for endpoint in item["spec"]["podMetricsEndpoints"]:
            if "targetPort" in endpoint or not endpoint.get("port"):
                yield f"{label(item)}: targetPort is deprecated; name the port"
            if ray and not any(_keeps_running(rule) for rule in endpoint.get("relabelings", [])):
                yield f"{label(item)}: port {endpoint.get('port')} of pods that are not Running is a target, and counts as down"


def _keeps_running(rule: Object) -> bool:
    return (rule.get("sourceLabels"), rule.get("regex"), rule.get("action")) == (
        ["__meta_kubernetes_pod_phase"], "Running", "keep",
    )  # fmt: skip


CHECKS = (references, keys, volumes, selectors, ports, resources, disruption, quota, ingress, monitors)
