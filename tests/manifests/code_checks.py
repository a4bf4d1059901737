"""The manifests against our own code: commands, arguments, versions, images, sizes and the way of the bundle."""

from __future__ import annotations

import functools
import importlib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml

from agent.config import Config, from_mapping, load
from agent.errors import ConfigError
from tests.manifests.checks import SERVE_PORT
from tests.manifests.image_checks import stages, workdir
from tests.manifests.world import ROOT, Object, Template, World, clusters, label, quantity, templates

_THROUGHPUT = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_IMAGES = "bert-agent"
_GPU = "nvidia.com/gpu"


# Commands


def commands(world: World) -> Iterator[str]:
    """Each entrypoint is `python SCRIPT key=value ...` of a script in the image, with keys that its config class takes."""
    for item in world.of("RayJob"):
        try:
            script, config = _command(item)
        except (ConfigError, ValueError) as error:
            yield f"{label(item)}: entrypoint: {error}"
            continue
        if "cluster" in config.model_fields_set:
            yield f"{label(item)}: entrypoint names a cluster; Ray sets RAY_ADDRESS for a job"
        for template in templates(world.only(item)):
            target = _target(template.ray["image"])
            if script.split("/")[0] not in stages(world.dockerfile).get(target, ""):
                yield f"{template.where}: image {target} does not hold {script}"


def _command(item: Object) -> tuple[str, Config]:
    """The script and the loaded configuration of an entrypoint.

    Raises:
        ValueError: It is not `python SCRIPT ...` with a script of the repository.
        ConfigError: A key or value is wrong.
    """
    program, script, *arguments = shlex.split(item["spec"]["entrypoint"])
    if program != "python" or script not in _configs() or not (ROOT / script).is_file():
        raise ValueError(f"{program} {script}: allowed are python {', '.join(_configs())}")
    if not all("=" in argument for argument in arguments):
        raise ValueError("only key=value, or a file that the image does not hold could be meant")
    return script, load(_configs()[script], arguments)


@functools.cache
def _configs() -> dict[str, type[Config]]:
    from compression.pipeline import CompressionConfig
    from training.config import TrainingConfig

    return {"training/run.py": TrainingConfig, "compression/run.py": CompressionConfig}


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
    from serving.settings import AppConfig

    return from_mapping(AppConfig, args)


def throughput(world: World) -> Iterator[str]:
    """The switches of the fast path stand on the head and on every worker: Ray reads them when it starts."""
    for template in templates(world, "head", "worker"):
        if template.owner["kind"] != "RayService":
            continue
        env = {entry["name"]: entry.get("value") for entry in template.ray.get("env", [])}
        for name, value in _THROUGHPUT.items():
            if env.get(name) != value:
                yield f"{template.where}: {name} is {env.get(name)}, not {value}"


# Versions and images


def ray_version(world: World) -> Iterator[str]:
    """rayVersion is what pyproject.toml pins, and so what is in the image."""
    for item, cluster in clusters(world):
        if cluster.get("rayVersion") != world.ray_pin:
            yield f"{label(item)}: rayVersion is {cluster.get('rayVersion')}, pyproject.toml pins {world.ray_pin}"


def images(world: World) -> Iterator[str]:
    """Images are targets of the Dockerfile, of this version; one cluster has one image."""
    version = world.pyproject["project"]["version"]
    for template in templates(world):
        for container in template.containers:
            repository, _, tag = container["image"].partition(":")
            if tag != version:
                yield f"{template.where}: image tag is {tag or 'absent'}, the project's version is {version}"
            if not repository.startswith(f"{_IMAGES}/") or _target(repository) not in stages(world.dockerfile):
                yield f"{template.where}: image {repository} is no target of the Dockerfile"
    for item in world.of("RayService", "RayJob"):
        used = {container["image"] for template in templates(world.only(item)) for container in template.containers}
        if len(used) > 1:
            yield f"{label(item)}: one cluster with {len(used)} images: {', '.join(sorted(used))}"


def _target(image: str) -> str:
    return image.partition(":")[0].removeprefix(f"{_IMAGES}/")


# Sizes


def sizes(world: World) -> Iterator[str]:
    """Workers, threads and replicas are as many as the pods have room for."""
    for item in world.of("RayJob"):
        cluster, config = item["spec"]["rayClusterSpec"], _config_or_none(item)
        groups = cluster.get("workerGroupSpecs", [])
        if cluster.get("enableInTreeAutoscaling"):
            yield f"{label(item)}: autoscaling, but workers are planned from what is there at the start"
        if any(len({group.get(key) for key in ("replicas", "minReplicas", "maxReplicas")}) > 1 for group in groups):
            yield f"{label(item)}: without autoscaling a group has one size"
        room = sum(group["replicas"] * int(_limit(group, _GPU) or 1) for group in groups)
        if (wanted := getattr(config, "num_workers", None)) and wanted != room:
            yield f"{label(item)}: num_workers={wanted}, the worker groups hold {room}"
        cpus = _limit(cluster["headGroupSpec"], "cpu")
        if (threads := getattr(config, "threads", None)) and threads != cpus:
            yield f"{label(item)}: threads={threads}, the head has {cpus:g} CPUs"
    for item in world.of("RayService"):
        yield from _replica_room(item)


def _replica_room(item: Object) -> Iterator[str]:
    cluster = item["spec"]["rayClusterConfig"]
    replicas = _serving(_applications(item)[0]["args"]).replicas
    if "auto" in (replicas.num_cpus, replicas.max_replicas):
        yield f"{label(item)}: num_cpus and max_replicas must be numbers: auto counts what runs now"
        return
    for bound, wanted in (("minReplicas", replicas.min_replicas), ("maxReplicas", replicas.max_replicas)):
        room = sum(
            group[bound] * (_limit(group, "cpu") // replicas.num_cpus) for group in cluster.get("workerGroupSpecs", [])
        )
        if wanted > room:
            yield f"{label(item)}: {wanted} replicas of {replicas.num_cpus} CPUs, {bound} workers hold {room:g}"


def _limit(group: Object, resource: str) -> float:
    return quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"].get(resource, 0))


def _config_or_none(item: Object) -> Config | None:
    try:
        return _command(item)[1]
    except (ConfigError, ValueError):
        return None  # `commands` tells


# The way of the bundle


def bundle_flow(world: World) -> Iterator[str]:
    """What training writes compression reads, what compression writes serving reads, all on one mounted claim."""
    read: list[tuple[str, str]] = []
    written: set[str] = set()
    for item in world.of("RayJob"):
        config: Any = _config_or_none(item)
        if config is None:
            continue
        written.add(str(config.output))
        read += [(label(item), str(config.bundle))] if hasattr(config, "bundle") else []
        paths = [str(config.output), *(path for path in [config.data.path] if path.startswith("/"))]
        yield from _on_claim(templates(world.only(item), "head", "worker"), paths, read_only=False)
    for item in world.of("RayService"):
        bundles = [entry["args"]["bundle"] for entry in _applications(item)]
        waited = [container["command"][-1] for head in templates(world.only(item), "head") for container in head.inits]
        read += [(label(item), path) for path in bundles + waited]
        yield from _on_claim(templates(world.only(item), "head", "worker"), bundles, read_only=True)
    for where, path in read:
        if path not in written:
            yield f"{where}: reads {path}, which no job writes ({', '.join(sorted(written))})"


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


CHECKS = (commands, serve_config, throughput, ray_version, images, sizes, bundle_flow, working_directory)
