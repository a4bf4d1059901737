"""The Dockerfile against pyproject.toml and against what KubeRay needs of an image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.manifests.world import ROOT, World

# The packages that each target holds; its extra has the target's name, but that the CUDA build takes serving's.
TARGETS = {
    "training": ("training",), "compression": ("compression",), "serving": ("serving",), "serving-gpu": ("serving",),
    "all": ("training", "compression", "serving"),
}  # fmt: skip
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


def installed_extras(text: str) -> list[str]:
    """Extras of this project that `pip install ".[one,another]"` names."""
    return [name for names in re.findall(r'"\.\[(.+?)\]"', text) for name in names.split(",")]


def targets(world: World) -> Iterator[str]:
    """Each target installs its extra and copies the packages that its program imports."""
    found = stages(world.dockerfile)
    for target, packages in TARGETS.items():
        extra = target.removesuffix("-gpu")
        if extra not in world.extras:
            yield f"{target}: pyproject.toml has no extra {extra}"
        if extra not in installed_extras(found.get(f"{target}-packages", "")):
            yield f"{target}: does not install the extra {extra}"
        if f"COPY --from={target}-packages" not in found.get(target, ""):
            yield f"{target}: does not take its packages from {target}-packages"
        for package in ("agent", "cluster", *packages):
            if f"COPY {package} {package}\n" not in found.get(target, ""):
                yield f"{target}: does not hold {package}/"
    for name in installed_extras(world.dockerfile):
        if name not in world.extras:
            yield f"the Dockerfile installs the extra {name}, which pyproject.toml does not have"


def serving_is_light(world: World) -> Iterator[str]:
    """The serving image holds no torch, transformers or deepspeed, and no other image's code."""
    names = ("serving-packages", "serving-gpu-packages", "serving", "serving-gpu")
    text = "".join(stages(world.dockerfile).get(name, "") for name in names)
    for name in (*_HEAVY, "COPY training", "COPY compression"):
        if name in text:
            yield f"serving: {name}"
    extras = installed_extras(stages(world.dockerfile).get("serving-packages", ""))
    for item in (item for extra in extras for item in world.extras.get(extra, [])):
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
    from training.model.models import _WHEEL, _WHEEL_VERSION

    for pin in re.findall(r"^ARG RAY_VERSION=(\S+)", world.dockerfile, flags=re.MULTILINE):
        if pin != world.ray_pin:
            yield f"RAY_VERSION is {pin}, pyproject.toml pins {world.ray_pin}"
    known = {str(Requirement(item)) for items in world.extras.values() for item in items}
    for item in re.findall(r'"(deepspeed\b[^"]*)"', world.dockerfile):
        if str(Requirement(item)) not in known:
            yield f"{item} is not as in pyproject.toml"
    yield from _torch(world)
    if f"--no-deps {_WHEEL}=={_WHEEL_VERSION}" not in stages(world.dockerfile).get("training-packages", ""):
        yield f"training: does not install {_WHEEL}=={_WHEEL_VERSION} with --no-deps"


def _torch(world: World) -> Iterator[str]:
    """The image has the torch of the Makefile, which constraints.txt leaves out."""
    chosen = re.findall(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    pins = re.findall(r"^ARG TORCH=(\S+)$", world.dockerfile, flags=re.MULTILINE)
    if not pins or pins != chosen:
        yield f"ARG TORCH is {pins}, the Makefile takes {chosen}"
    for item in (item for items in world.extras.values() for item in items if Requirement(item).name == "torch"):
        yield from (f"ARG TORCH={pin} is not {item}" for pin in pins if pin.partition("==")[2] not in Requirement(item).specifier)  # fmt: skip


# What .ci/lock.py leaves out: the user chooses the build of torch, and set-up brings build tools up to date by itself.
_CHOSEN_LATER = re.compile(r"torch|triton|nvidia-.*|cuda-.*|pip|setuptools|wheel")


def locked(world: World) -> Iterator[str]:
    """Every package that an extra of an image brings has its version in .ci/constraints.txt, and every install reads it."""
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, world.constraints)}
    for item in (item for extra in ("training", "compression", "serving") for item in world.extras[extra]):
        requirement = Requirement(item)
        if requirement.marker and not requirement.marker.evaluate(
            {"platform_system": "Linux", "platform_machine": "x86_64"}
        ):
            continue
        if _CHOSEN_LATER.fullmatch(requirement.name):
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        versions = [version.version for version in pin.specifier] if pin else []
        if not versions:
            yield f"constraints.txt: no version of {requirement.name}; remedy: make lock"
        elif versions[0] not in requirement.specifier:
            yield f"constraints.txt: {pin} is not {item}; remedy: make lock"
    for name in sorted(name for name in _brought(world) - set(pins) if not _CHOSEN_LATER.fullmatch(name)):
        yield f"constraints.txt: no version of {name}, which another package brings; remedy: make lock"
    text = re.sub(r"\\\n", " ", world.dockerfile)
    for command in re.findall(r"pip install (?!.*--no-deps)[^&\n]+", text):
        if "-c constraints.txt" not in command:
            yield f"pip install {command.split('install ')[1][:40]}... does not read constraints.txt"


def _brought(world: World) -> set[str]:
    """Installed packages that the extras of the images bring, directly or not."""
    wanted = [Requirement(item) for extra in ("training", "compression", "serving") for item in world.extras[extra]]
    found: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        for extra in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), extra)
            if key in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            try:
                inner = metadata.requires(requirement.name) or []
            except metadata.PackageNotFoundError:
                continue
            found.add(key)
            for item in map(Requirement, inner):
                if item.marker is None or item.marker.evaluate({"extra": extra}):
                    item.marker = None
                    wanted.append(item)
    return {name for name, _ in found}


def build_order(world: World) -> Iterator[str]:
    """Torch stands before DeepSpeed is built against it; compilers stay in the stage that builds."""
    found = stages(world.dockerfile)
    training = found.get("training-packages", "")
    places = [
        training.find(text) for text in ('"${TORCH}"', "build-essential", "--no-build-isolation", '".[training]"')
    ]
    if -1 in places or places != sorted(places):
        yield "training: not in the order torch, compilers, deepspeed without build isolation, the extra"
    for name, text in found.items():
        if name not in ("training-packages", "all-packages") and "build-essential" in text:
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
        for setting in (
            f"PYTHONPATH={workdir(world.dockerfile)}",
            "PIP_NO_CACHE_DIR=1",
            "HOME=/tmp",
            "ORT_DISABLE_TELEMETRY=1",
        ):
            if setting not in text:
                yield f"{target}: {setting} is not set"
        if "/etc/profile.d/" not in text:
            yield f"{target}: a login shell does not find ray"
        packages = found.get(f"{target}-packages", "")
        extra = target.removesuffix("-gpu")
        serve = any(item.startswith("ray[serve]") for item in world.extras.get(extra, []))
        if "ray[default]" not in packages and not serve:
            yield f"{target}: neither ray[default] nor ray[serve]: the head has no jobs API"


def context(world: World) -> Iterator[str]:
    """Everything that is copied is let through by .dockerignore."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", world.dockerfile, flags=re.MULTILINE):
        for name in names.split():
            if name not in allowed:
                yield f".dockerignore keeps {name} out"


CHECKS = (targets, serving_is_light, python_version, pins, locked, build_order, runtime, context)
