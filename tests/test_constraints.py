"""The pinned versions: complete, exact, and what set-up takes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = ("training", "compression", "serving", "tracing", "dev")
LEFT_TO_THE_USER = {"torch"}


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    return dict(pairs)


def test_every_requirement_of_set_up_has_a_pin_that_it_allows(pins: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needs = [
        Requirement(text) for text in (*project["dependencies"], *(need for extra in EXTRAS for need in extras[extra]))
    ]
    for need in needs:
        if canonicalize_name(need.name) in LEFT_TO_THE_USER or (need.marker and not need.marker.evaluate()):
            continue
        assert need.specifier.contains(pins[canonicalize_name(need.name)]), f"{need}: make lock"


def test_pins_are_exact_and_choose_no_build_of_torch(pins: dict[str, str]) -> None:
    assert len(pins) > 100
    assert all(re.fullmatch(r"[0-9][0-9a-z.!]*", version) for version in pins.values())
    assert not any(re.match(r"torch$|nvidia-|triton$", name) for name in pins)


def test_make_setup_takes_the_pins_and_can_be_told_not_to() -> None:
    def commands(*given: str) -> list[str]:
        done = subprocess.run(
            ["make", "--dry-run", "--always-make", f"PYTHON={sys.executable}", "setup", *given],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [line for line in done.stdout.splitlines() if "install" in line]

    pinned = [line for line in commands() if "--constraint .ci/constraints.txt" in line]
    assert len(pinned) == 3  # torch, deepspeed, everything else
    assert not any("--constraint" in line for line in commands("CONSTRAINTS="))
