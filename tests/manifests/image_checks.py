"""The Dockerfile against pyproject.toml and against what KubeRay needs of an image."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.manifests.world import ROOT, World

TARGETS = ("training", "compression", "serving")  # each the name of a target, a package and an extra
_HEAVY = ("torch", "transformers", "deepspeed")


def stages(dockerfile: str) -> dict[str, str]:
    """The text of each stage, comments removed, lines joined, the stages it builds on before it."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, str] = {}
    for parent, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", text, flags=re.MULTILINE | re.DOTALL
    ):
        found[name] = found.get(parent, "") + body
    return found


def workdir(dockerfile: str) -> str:
    return str(re.findall(r"^WORKDIR (\S+)", dockerfile, flags=re.MULTILINE)[-1])


def targets(world: World) -> Iterator[str]:
    """Each target installs its extra and copies the packages that its program imports."""
    found = stages(world.dockerfile)
    for target in TARGETS:
        if target not in world.extras:
            yield f"{target}: pyproject.toml has no extra {target}"
        if f'".[{target}]"' not in found.get(f"{target}-packages", ""):
            yield f"{target}: does not install the extra {target}"
        if f"COPY --from={target}-packages" not in found.get(target, ""):
            yield f"{target}: does not take its packages from {target}-packages"
        for package in ("agent", "cluster", target):
            if f"COPY {package} {package}\n" not in found.get(target, ""):
                yield f"{target}: does not hold {package}/"
    for name in re.findall(r'"\.\[(.+?)\]"', world.dockerfile):
        if name not in world.extras:
            yield f"the Dockerfile installs the extra {name}, which pyproject.toml does not have"


def serving_is_light(world: World) -> Iterator[str]:
    """The serving image holds no torch, transformers or deepspeed, and no other image's code."""
    text = stages(world.dockerfile).get("serving-packages", "") + stages(world.dockerfile).get("serving", "")
    for name in (*_HEAVY, "COPY training", "COPY compression"):
        if name in text:
            yield f"serving: {name}"
    for item in world.extras["serving"]:
        if Requirement(item).name in _HEAVY:
            yield f"serving: the extra brings {item}"


def python_version(world: World) -> Iterator[str]:
    """The base image is an argument, and its default's Python is one that pyproject.toml allows."""
    match = re.search(r"^ARG BASE_IMAGE=python:([0-9.]+)", world.dockerfile, flags=re.MULTILINE)
    allowed = world.pyproject["project"]["requires-python"]
    if not match:
        yield "the Dockerfile has no ARG BASE_IMAGE=python:VERSION"
    elif match[1] not in SpecifierSet(allowed):
        yield f"the base image has Python {match[1]}, pyproject.toml allows {allowed}"
    earlier = {"${BASE_IMAGE}"}
    for parent, name in re.findall(r"^FROM (\S+) AS (\S+)$", world.dockerfile, flags=re.MULTILINE):
        if parent not in earlier:
            yield f"{name}: is from {parent}, neither BASE_IMAGE nor an earlier stage"
        earlier.add(name)


def pins(world: World) -> Iterator[str]:
    """Versions that the Dockerfile repeats are those of pyproject.toml and of the code."""
    from training.models import _WHEEL, _WHEEL_VERSION

    for pin in re.findall(r"^ARG RAY_VERSION=(\S+)", world.dockerfile, flags=re.MULTILINE):
        if pin != world.ray_pin:
            yield f"RAY_VERSION is {pin}, pyproject.toml pins {world.ray_pin}"
    known = {str(Requirement(item)) for items in world.extras.values() for item in items}
    for name in ("torch", "deepspeed"):
        for item in re.findall(rf'"({name}\b[^"]*)"', world.dockerfile):
            if str(Requirement(item)) not in known:
                yield f"{item} is not as in pyproject.toml"
    if f"--no-deps {_WHEEL}=={_WHEEL_VERSION}" not in stages(world.dockerfile).get("training-packages", ""):
        yield f"training: does not install {_WHEEL}=={_WHEEL_VERSION} with --no-deps"


def build_order(world: World) -> Iterator[str]:
    """Torch stands before DeepSpeed is built against it; compilers stay in the stage that builds."""
    found = stages(world.dockerfile)
    training = found.get("training-packages", "")
    places = [training.find(text) for text in ('"torch>=', "build-essential", "--no-build-isolation", '".[training]"')]
    if -1 in places or places != sorted(places):
        yield "training: not in the order torch, compilers, deepspeed without build isolation, the extra"
    for name, text in found.items():
        if name != "training-packages" and "build-essential" in text:
            yield f"{name}: holds compilers"


def runtime(world: World) -> Iterator[str]:
    """What KubeRay's commands and probes need, as a numbered user that is not root, with Ray's jobs API."""
    found = stages(world.dockerfile)
    for target in TARGETS:
        text = found.get(target, "")
        for program in ("bash", "wget"):
            if not re.search(rf"apt-get install .*\b{program}\b", text):
                yield f"{target}: {program} is missing, which KubeRay calls"
        users = re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)
        if not users or not re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]):
            yield f"{target}: USER is {users[-1] if users else 'root'}, not a number above 0 (runAsNonRoot reads no names)"
        if f"PYTHONPATH={workdir(world.dockerfile)}" not in text or "PIP_NO_CACHE_DIR=1" not in text:
            yield f"{target}: PYTHONPATH or PIP_NO_CACHE_DIR is not set"
        packages = found.get(f"{target}-packages", "")
        serve = any(item.startswith("ray[serve]") for item in world.extras.get(target, []))
        if "ray[default]" not in packages and not serve:
            yield f"{target}: neither ray[default] nor ray[serve]: the head has no jobs API"


def context(world: World) -> Iterator[str]:
    """Everything that is copied is let through by .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", world.dockerfile, flags=re.MULTILINE):
        for name in names.split():
            if name not in allowed:
                yield f".dockerignore keeps {name} out"


CHECKS = (targets, serving_is_light, python_version, pins, build_order, runtime, context)
