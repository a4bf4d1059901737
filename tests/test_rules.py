"""Rules of the tree: names that shadow nothing, imports that stay light and go one way."""

import ast
import importlib.metadata
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("training", "compression", "serving")
SCRIPTS = sorted(
    path
    for program in PROGRAMS
    for path in (ROOT / program).glob("*.py")
    if '"__main__"' in path.read_text(encoding="utf-8")
)
HEAVY = (
    "ray", "torch", "transformers", "deepspeed", "onnxruntime", "fastapi", "onnx", "datasets", "optimum",
    "peft", "matplotlib", "mlflow", "tensorboard",
)  # fmt: skip
LAZY_HELP_S = 10


def modules(folder):
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported_libraries():
    """Top-level names that our own code imports."""
    names = set()
    for folder in ("agent", "cluster", *PROGRAMS):
        for file in modules(ROOT / folder):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.split(".")[0])
    return names - {"agent", "cluster", "tests", *PROGRAMS}


@pytest.fixture(scope="module")
def taken():
    """Names of the standard library, of libraries that are imported, and of our packages."""
    installed = set(importlib.metadata.packages_distributions())
    return sys.stdlib_module_names | (installed & imported_libraries()) | {"agent", "cluster", *PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_module_carries_the_name_of_a_library(program, taken):
    """`python training/run.py` puts training/ first on sys.path."""
    # Only what lies directly in the program's directory can shadow; one level below is held to the same rule.
    names = {path.stem for path in modules(ROOT / program)} - {"__init__", "__main__"}
    assert names & taken == set()


def test_the_import_rules_hold():
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_by(statement):
    """Which heavy libraries a fresh interpreter holds after a statement."""
    program = (
        f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_shared_contract_pulls_nothing_heavy():
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules(ROOT / "agent")
        if path.stem != "__main__"
    ]
    packages = [re.sub(r"\.__init__$", "", name) for name in names]
    assert "agent.tasks" in packages
    assert loaded_by(f"import {', '.join(packages)}, cluster") == []


def _cpu_s_of_children():
    """CPU time, which neighbours on the machine change little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


STATUSES = {"--help": (0, 2), "--print-config": (0, 2), "nonsense=1": (2,)}
WATCHER = f"""
import io, json, pathlib, runpy, sys, traceback
from contextlib import redirect_stderr, redirect_stdout

script, *arguments = sys.argv[1:]
for argument in arguments:
    sys.argv, sys.path[0] = [script, argument], str(pathlib.Path(script).parent)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        try:
            status = runpy.run_path(script, run_name="__main__") and 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            status = traceback.print_exc() or 1
    heavy = sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY!r}))
    print(json.dumps([argument, status, out.getvalue(), errors.getvalue(), heavy]))
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-2:]))
def test_help_and_configuration_answer_without_heavy_imports(script):
    """One after the other in one fresh interpreter: what one of them imports, the next ones find there too."""
    begin = _cpu_s_of_children()
    command = [sys.executable, "-c", WATCHER, str(script), *STATUSES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert _cpu_s_of_children() - begin < LAZY_HELP_S
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [argument for argument, *_ in answers] == list(STATUSES)
    for argument, status, out, errors, heavy in answers:
        assert heavy == [], (argument, out[-300:], errors[-2000:])
        assert "Traceback" not in done.stderr + errors
        assert status in STATUSES[argument], (argument, errors)
        assert argument != "--help" or "Keys:" in out
