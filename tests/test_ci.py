"""What continuous integration runs, by the commands that its targets would give."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def _test_runs(target: str) -> list[str]:
    """The arguments of each pytest of a target, set-up left out."""
    done = subprocess.run(
        ["make", "--dry-run", f"PYTHON={sys.executable}", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return re.findall(r"-m pytest (.*)", done.stdout)


def test_every_test_of_the_default_environment_runs_in_ci_and_runs_once() -> None:
    targets = re.findall(r"^make (\S+)$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert set(targets) >= {"check", "test"}
    (checked,) = _test_runs("check")
    (tested,) = _test_runs("test")
    assert (ROOT / checked).is_dir()
    left_out = re.findall(r"--ignore (\S+)", tested)
    assert left_out == [checked]
    assert re.sub(r"--ignore \S+", "", tested).split() == ["-m", '"not', 'optimum"']
