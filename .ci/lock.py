"""Prints the constraints that set-up uses: the versions installed here of all that bert-agent's extras need, directly or not.

torch and what it brings for GPUs are left out: the user chooses the build (`make setup TORCH=...`). So are build tools,
which set-up brings up to date by itself.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distribution, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("training", "compression", "serving", "tracing", "dev")
LEFT_OUT = re.compile(r"torch|triton|nvidia-.*|cuda-.*|pip|setuptools|wheel|bert-agent")


def closure(name: str, extras: frozenset[str], seen: dict[str, frozenset[str]]) -> None:
    """Adds what a package needs with these extras."""
    name = canonicalize_name(name)
    if name in seen and extras <= seen[name]:
        return
    seen[name] = seen.get(name, frozenset()) | extras
    for text in distribution(name).requires or ():
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            closure(need.name, frozenset(need.extras), seen)


def main() -> None:
    """Prints a line per package."""
    found: dict[str, frozenset[str]] = {}
    for text in project_requirements():
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate():
            closure(need.name, frozenset(need.extras), found)
    print(
        "# Made by `make lock` (.ci/lock.py), used by `make setup`; an upgrade is: make setup CONSTRAINTS=, make test, make lock."
    )
    for name in sorted(found):
        if not LEFT_OUT.fullmatch(name):
            print(f"{name}=={version(name).partition('+')[0]}")


def project_requirements() -> list[str]:
    """What pyproject.toml asks for itself, so that a stale installation of this project does not matter."""
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(need for extra in EXTRAS for need in extras[extra])]


if __name__ == "__main__":
    sys.exit(main())
