"""The manifests against our own code: commands, arguments, versions, images, sizes and the way of the bundle."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from agent.config.base import Config, from_mapping, load
from agent.errors import ConfigError
from cluster.file_system import is_remote
from tests.manifests.cluster_checks import SERVE_PORT
from tests.manifests.image_checks import stages, workdir
from tests.manifests.running.script_checks import waits_for
from tests.manifests.world import ROOT, Object, Template, World, clusters, jobs, label, quantity, templates

_IMAGES = "bert-agent/"
_GPU = "nvidia.com/gpu"
_VERSION = "$version"  # what a job's script puts into the names of what it writes
_MIB = 2**20


# Commands


def commands(world: World) -> Iterator[str]:
    """Each command is `python SCRIPT key=value ...` of a script in the image, with keys that its config class takes."""
    for item, _ in jobs(world):
        try:
            configs = _configs_of(world, item)
        except (ConfigError, ValueError) as error:
            yield f"{label(item)}: entrypoint: {error}"
            continue
        for script, config in configs:
            if "cluster" in config.model_fields_set:
                yield f"{label(item)}: entrypoint names a cluster; Ray sets RAY_ADDRESS for a job"
            for template in templates(world.only(item)):
                target = _target(template.ray["image"])
                if f"COPY {script.split('/')[0]} " not in stages(world.dockerfile).get(target, ""):
                    yield f"{template.where}: image {target} does not hold {script}"


def _configs_of(world: World, item: Object) -> list[tuple[str, Any]]:
    """Scripts and loaded configurations of a job, in their order.

    Raises:
        ValueError: A command is not `python SCRIPT ...` with a script of the repository, or a failure would go unnoticed.
        ConfigError: A key or value is wrong.
    """
    spec = item["spec"].get("jobTemplate", item["spec"])
    lines = [spec["entrypoint"]]
    if lines[0].startswith("bash "):
        text = _mounted_text(world, item, lines[0].removeprefix("bash "))
        if "set -euo pipefail" not in text:
            raise ValueError("the script goes on after a failure; begin with set -euo pipefail")
        lines = [line for line in text.splitlines() if line.startswith("python ")]
    return [_parse(line) for line in lines]


def _mounted_text(world: World, item: Object, path: str) -> str:
    """The text of a file that a ConfigMap puts into the head.

    Raises:
        ValueError: There is none.
    """
    folder, _, file = path.rpartition("/")
    for head in templates(world.only(item), "head"):
        mounted = [mount["name"] for mount in head.ray["volumeMounts"] if mount["mountPath"] == folder]
        maps = [volume.get("configMap", {}).get("name") for volume in head.spec["volumes"] if volume["name"] in mounted]
        for found in (other for other in world.of("ConfigMap") if other["metadata"]["name"] in maps):
            if file in found["data"]:
                return str(found["data"][file])
    raise ValueError(f"no ConfigMap puts {path} into the head")


def _parse(line: str) -> tuple[str, Config]:
    program, script, *arguments = shlex.split(line)
    if program != "python" or script not in _configs() or not (ROOT / script).is_file():
        raise ValueError(f"{program} {script}: allowed are python {', '.join(_configs())}")
    if not all("=" in argument for argument in arguments):
        raise ValueError("only key=value, or a file that the image does not hold could be meant")
    return script, load(_configs()[script], arguments)


@functools.cache
def _configs() -> dict[str, type[Config]]:
    from compression.pipeline.pipeline_inputs import CompressionConfig
    from training.config import TrainingConfig

    return {"training/run.py": TrainingConfig, "compression/run.py": CompressionConfig}


def api_keys(world: World) -> Iterator[str]:
    """The line that switches API keys on is one of ours and names the file that is mounted, from a Secret that may be absent."""
    held = {item["metadata"]["name"]: item.get("stringData", {}) for item in world.examples if item["kind"] == "Secret"}
    for item in world.of("RayService"):
        switched_on = yaml.safe_load(re.sub(r"# (?=auth: )", "", item["spec"]["serveConfigV2"]))
        for application in switched_on["applications"]:
            try:
                _serving(application["args"])
            except ConfigError as error:
                yield f"{label(item)}: with API keys: {' '.join(str(error).split())}"
        named = re.findall(r"keys_file: ([^\s}]+)", item["spec"]["serveConfigV2"])
        for template in templates(world.only(item), "head", "worker") if named else ():
            path = PurePosixPath(named[0])
            mounts = {mount["mountPath"]: mount["name"] for mount in template.ray["volumeMounts"]}
            secrets = {volume["name"]: volume["secret"] for volume in template.spec["volumes"] if "secret" in volume}
            secret = secrets.get(mounts.get(str(path.parent), ""), {})
            if path.name not in held.get(secret.get("secretName", ""), {}):
                yield f"{template.where}: keys_file is {path}, which no Secret puts there"
            elif not secret.get("optional"):
                yield f"{template.where}: does not start without API keys"


def serve_config(world: World) -> Iterator[str]:
    """serveConfigV2 is a Serve config, and its arguments are a configuration of ours."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    for item in world.of("RayService"):
        try:
            given = yaml.safe_load(item["spec"]["serveConfigV2"])
            schema = ServeDeploySchema.model_validate(given)
            for key in _dropped(given, schema.model_dump(exclude_unset=True)):
                yield f"{label(item)}: serveConfigV2: Ray Serve does not know {key} and ignores it"
            for application in schema.applications:
                module, _, name = application.import_path.partition(":")
                if not callable(getattr(importlib.import_module(module), name, None)):
                    yield f"{label(item)}: {application.import_path} is no builder"
                _serving(application.args)
        except (ValidationError, ConfigError, ModuleNotFoundError) as error:
            yield f"{label(item)}: serveConfigV2: {' '.join(str(error).split())}"
            continue
        options = schema.http_options
        if options.host != "0.0.0.0":
            yield f"{label(item)}: Serve listens at {options.host}; other pods cannot reach it"
        for template in templates(world.only(item)):
            found = {port["name"]: port["containerPort"] for port in template.ray.get("ports", [])}
            if found.get(SERVE_PORT) != options.port:
                yield f"{template.where}: port {SERVE_PORT} is {found.get(SERVE_PORT)}, Serve listens at {options.port}"
        yield from _ways_in(world, options.port)


def _ways_in(world: World, port: int) -> Iterator[str]:
    """The ingress leads to that port, and a NetworkPolicy lets callers from elsewhere in, there and nowhere else."""
    for item in world.of("Ingress"):
        for backend in (path["backend"]["service"] for rule in item["spec"]["rules"] for path in rule["http"]["paths"]):
            if backend["port"].get("number") != port:
                yield f"{label(item)}: leads to port {backend['port'].get('number')}, Serve listens at {port}"
    for item in world.of("NetworkPolicy"):
        if item["metadata"]["name"] in ("callers", "gateway"):
            opened = {entry["port"] for rule in item["spec"]["ingress"] for entry in rule.get("ports", [])}
            if opened != {port}:
                yield f"{label(item)}: lets callers in at {sorted(opened)}, Serve listens at {port}"


def _dropped(given: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Keys that are not in what a schema made of a tree."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from _dropped(value, kept[key], f"{where}{key}.")
            else:
                yield where + key
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (value, other) in enumerate(zip(given, kept, strict=True)):
            yield from _dropped(value, other, f"{where}{index}.")


def _serving(args: dict[str, Any]) -> Any:
    """What serving.app.build makes of a Serve config's args.

    Raises:
        ConfigError: A key or value is wrong.
    """
    from serving.ray_serve.app_config import AppConfig

    return from_mapping(AppConfig, args)


def throughput(world: World) -> Iterator[str]:
    """The environment of the fast path, as serving/ray_serve/haproxy.py has it, on the head and every worker: Ray reads it at its start."""
    from serving.ray_serve.haproxy import SWITCHES, everywhere

    maps = {item["metadata"]["name"]: item["data"] for item in world.of("ConfigMap")}
    for template in templates(world, "head", "worker"):
        if template.owner["kind"] != "RayService":
            continue
        env = {entry["name"]: entry.get("value") for entry in template.ray.get("env", [])}
        for entry in template.ray.get("envFrom", []):
            env |= maps.get(entry.get("configMapRef", {}).get("name"), {})
        for name, value in (SWITCHES | everywhere()).items():
            if env.get(name) != value:
                yield f"{template.where}: {name} is {env.get(name)}, not {value}"
        yield from (f"{template.where}: {text}" for text in _unknown_to_ray(env))


def _unknown_to_ray(env: dict[str, Any]) -> Iterator[str]:
    from ray.serve._private import constants

    known = Path(str(constants.__file__)).read_text()
    for name in env:
        if name.startswith("RAY_SERVE_") and f'"{name}"' not in known:
            yield f"Ray Serve reads no {name}"


# Versions and images


def ray_version(world: World) -> Iterator[str]:
    """rayVersion is what pyproject.toml pins, and so what is in the image."""
    for item, cluster in clusters(world):
        if cluster.get("rayVersion") != world.ray_pin:
            yield f"{label(item)}: rayVersion is {cluster.get('rayVersion')}, pyproject.toml pins {world.ray_pin}"


def images(world: World) -> Iterator[str]:
    """Images are targets of the Dockerfile, of this version; one cluster has one image; nothing is `latest`."""
    version = world.pyproject["project"]["version"]
    for template in templates(world):
        for container in template.containers:
            repository, _, tag = container["image"].rpartition(":")
            if template.role == "pod" and _IMAGES not in repository:
                if not re.match(r"\d+\.\d+\.\d+", tag):
                    yield f"{template.where}: image {container['image']} is not pinned to a release"
                continue
            if tag != version:
                yield f"{template.where}: image tag is {tag or 'absent'}, the project's version is {version}"
            if _IMAGES not in repository or _target(container["image"]) not in stages(world.dockerfile):
                yield f"{template.where}: image {repository} is no target of the Dockerfile"
    for item in world.of("RayService", "RayJob", "RayCronJob"):
        used = {container["image"] for template in templates(world.only(item)) for container in template.containers}
        if len(used) > 1:
            yield f"{label(item)}: one cluster with {len(used)} images: {', '.join(sorted(used))}"


def _target(image: str) -> str:
    return image.rpartition(":")[0].rpartition(_IMAGES)[2]


def ingress_limits(world: World) -> Iterator[str]:
    """The ingress lets through what the agent takes: refusals are the agent's own, in JSON."""
    from serving.scheduling.limits import LimitsConfig

    for item in world.of("Ingress"):
        size = item["metadata"].get("annotations", {}).get("nginx.ingress.kubernetes.io/proxy-body-size", "1m")
        if float(size.removesuffix("m")) * _MIB <= LimitsConfig().max_body_bytes:
            yield f"{label(item)}: proxy-body-size {size} is not above limits.max_body_bytes"


# Sizes


def sizes(world: World) -> Iterator[str]:
    """Workers, threads and replicas are as many as the pods have room for."""
    for item, spec in jobs(world):
        cluster = spec["rayClusterSpec"]
        groups = cluster.get("workerGroupSpecs", [])
        if cluster.get("enableInTreeAutoscaling"):
            yield f"{label(item)}: autoscaling, but workers are planned from what is there at the start"
        if any(len({group.get(key) for key in ("replicas", "minReplicas", "maxReplicas")}) > 1 for group in groups):
            yield f"{label(item)}: without autoscaling a group has one size"
        room = sum(group["replicas"] * int(_limit(group, _GPU) or 1) for group in groups)
        cpus = _limit(cluster["headGroupSpec"], "cpu")
        for config in _loaded(world, item):
            if (wanted := getattr(config, "num_workers", None)) and wanted != room:
                yield f"{label(item)}: num_workers={wanted}, the worker groups hold {room}"
            if (threads := getattr(config, "threads", None)) and threads != cpus:
                yield f"{label(item)}: threads={threads}, the head has {cpus:g} CPUs"
    for item in world.of("RayService"):
        yield from _replica_room(item)


def _replica_room(item: Object) -> Iterator[str]:
    groups = item["spec"]["rayClusterConfig"].get("workerGroupSpecs", [])
    replicas = _serving(_applications(item)[0]["args"]).replicas
    if "auto" in (replicas.num_cpus, replicas.max_replicas):
        yield f"{label(item)}: num_cpus and max_replicas must be numbers: auto counts what runs now"
        return
    for bound, wanted in (("minReplicas", replicas.min_replicas), ("maxReplicas", replicas.max_replicas)):
        room = sum(group[bound] * _fitting(group, replicas) for group in groups)
        if wanted > room:
            yield f"{label(item)}: {wanted} replicas, {bound} workers hold {room:g}"
        elif bound == "maxReplicas" and 2 * wanted > room:
            yield f"{label(item)}: {wanted} replicas and as many of a new version, {bound} workers hold {room:g}"


def _fitting(group: Object, replicas: Any) -> float:
    by_cpu = _limit(group, "cpu") // replicas.num_cpus
    return min(by_cpu, _limit(group, _GPU) // replicas.num_gpus) if replicas.num_gpus else by_cpu


def _limit(group: Object, resource: str) -> float:
    return quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(resource, 0))


def _loaded(world: World, item: Object) -> list[Any]:
    try:
        return [config for _, config in _configs_of(world, item)]
    except (ConfigError, ValueError):
        return []  # `commands` tells


# The way of the bundle


def bundle_flow(world: World) -> Iterator[str]:
    """What training writes compression reads, what compression writes serving reads, all on one mounted claim."""
    read: list[tuple[str, str]] = []
    written: list[tuple[str, str]] = []
    served: set[str] = set()
    for item, _ in jobs(world):
        for config in _loaded(world, item):
            written.append((label(item), str(config.output)))
            read += [(label(item), str(config.bundle))] if hasattr(config, "bundle") else []
            paths = [str(config.output), *(path for path in [config.data.path] if path.startswith("/"))]
            yield from _on_claim(templates(world.only(item), "head", "worker"), paths, read_only=False)
            if item["kind"] == "RayCronJob" and _VERSION not in str(config.output):
                yield f"{label(item)}: writes {config.output} each time, over what may be served; put {_VERSION} into it"
    for item in world.of("RayService"):
        bundles = [entry["args"]["bundle"] for entry in _applications(item)]
        served.update(bundles)
        waited = [argument.partition("=")[2] for head in templates(world.only(item), "head") for container in head.inits for argument in waits_for(container) if argument.startswith("source=")]  # fmt: skip
        read += [(label(item), path) for path in bundles + waited]
        local = [path for path in bundles if not is_remote(path)]
        yield from _on_claim(templates(world.only(item), "head", "worker"), local, read_only=True)
        if len(local) < len(bundles):
            yield from _with_credentials(templates(world.only(item), "head", "worker"))
    outputs = [path for _, path in written]
    for where, path in read:
        if not is_remote(path) and not any(fnmatchcase(output, path) for output in outputs):
            yield f"{where}: reads {path}, which no job writes ({', '.join(sorted(outputs))})"
        elif "*" in path and (
            others := {bundle for _, bundle in read if "*" not in bundle and fnmatchcase(bundle, path)} - served
        ):
            yield f"{where}: {path} is content with {', '.join(sorted(others))}, which is only a step on the way"
    for where, path in written:
        if outputs.count(path) > 1:
            yield f"{where}: {path} is written by two jobs"


def _with_credentials(pods: Iterable[Template]) -> Iterator[str]:
    for template in pods:
        for container in template.containers:
            if not any("secretRef" in entry for entry in container.get("envFrom", [])):
                yield f"{template.where}: {container['name']} has no credentials for object storage"


def _on_claim(pods: Iterable[Template], paths: list[str], *, read_only: bool) -> Iterator[str]:
    for template in pods:
        claims = {volume["name"] for volume in template.spec["volumes"] if "persistentVolumeClaim" in volume}
        mounts = [mount for mount in template.ray.get("volumeMounts", []) if mount["name"] in claims]
        for path in paths:
            holding = [mount for mount in mounts if PurePosixPath(path).is_relative_to(mount["mountPath"])]
            if not holding:
                yield f"{template.where}: {path} lies on no claim"
            elif holding[0].get("readOnly", False) != read_only:
                yield f"{template.where}: {path} is mounted {'writable, but only read' if read_only else 'read-only'}"


def _applications(item: Object) -> list[dict[str, Any]]:
    applications: list[dict[str, Any]] = yaml.safe_load(item["spec"]["serveConfigV2"])["applications"]
    return applications


def working_directory(world: World) -> Iterator[str]:
    """Entrypoints are relative to the image's directory, which KubeRay keeps unless a container says otherwise."""
    for template in templates(world):
        for container in template.containers:
            if container.get("workingDir", workdir(world.dockerfile)) != workdir(world.dockerfile):
                yield f"{template.where}: workingDir is not {workdir(world.dockerfile)}"


CHECKS = (
    commands, api_keys, serve_config, throughput, ray_version, images, ingress_limits, sizes, bundle_flow,
    working_directory,
)  # fmt: skip
