"""What continuous integration runs, by the commands that its targets would give."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARKERS = ("system", "long", "faults", "browser")


def _test_runs(target: str) -> list[list[str]]:
    """The arguments of each pytest of a target, set-up left out."""
    done = subprocess.run(
        ["make", "--dry-run", f"PYTHON={sys.executable}", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [shlex.split(arguments) for arguments in re.findall(r"-m pytest (.*)", done.stdout)]


def _targets() -> list[str]:
    return re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)


def _selected(arguments: list[str], marks: tuple[str, ...]) -> bool:
    """Whether a test with these markers belongs to a run: a marker expression is a Python expression of names."""
    expression = arguments[arguments.index("-m") + 1]
    return bool(eval(expression, {}, {name: name in marks for name in (*MARKERS, "optimum")}))


@pytest.mark.parametrize("marks", [some for n in range(5) for some in itertools.combinations(MARKERS, n)], ids=str)
def test_a_test_of_the_default_environment_runs_once_whatever_its_markers(marks: tuple[str, ...]) -> None:
    (checked,) = [arguments[0] for arguments in _test_runs("check")]
    assert (ROOT / checked).is_dir()
    runs = [
        arguments
        for target in set(_targets()) - {"check", "check-security", "test-optimum"}
        for arguments in _test_runs(target)
    ]
    assert all(arguments[:2] == ["--ignore", checked] for arguments in runs)
    assert all("tests/" not in argument for arguments in runs for argument in arguments[2:])
    assert [_selected(arguments, marks) for arguments in runs].count(True) == 1
    assert not any(_selected(arguments, (*marks, "optimum")) for arguments in runs)


def test_the_environment_of_optimum_runs_every_test_that_needs_it() -> None:
    (arguments,) = _test_runs("test-optimum")
    chosen = [ROOT / argument for argument in arguments if argument.startswith("tests/")]
    assert all(place.exists() for place in chosen)
    marked = [file for file in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.optimum" in file.read_text()]
    assert [file for file in marked if file != Path(__file__) and not {file, *file.parents} & set(chosen)] == []
    assert _selected(arguments, ("optimum",))


def test_every_target_with_tests_runs_in_ci() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"^(check[a-z-]*|test[a-z-]*):", makefile, flags=re.MULTILINE)) == set(_targets())


def test_every_marker_has_its_place_in_a_target() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert {line.partition(":")[0] for line in options["markers"]} == {*MARKERS, "optimum"}
