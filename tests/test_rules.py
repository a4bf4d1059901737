"""Rules of the tree: names that shadow nothing, imports that stay light and go one way."""

import ast
import importlib.metadata
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


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_module_carries_the_name_of_a_library(program):
    """`python training/run.py` puts training/ first on sys.path."""
    installed = set(importlib.metadata.packages_distributions())
    taken = sys.stdlib_module_names | (installed & imported_libraries()) | {"agent", "cluster", *PROGRAMS}
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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: "/".join(path.parts[-2:]))
@pytest.mark.parametrize("argument", ["--help", "--print-config", "nonsense=1"])
def test_help_and_configuration_answer_without_heavy_imports(script, argument):
    watcher = (
        "import runpy, sys, atexit; script, *sys.argv[1:] = sys.argv[1:]; sys.argv[0] = script; sys.path[0] = str(__import__('pathlib').Path(script).parent)\n"
        f"atexit.register(lambda: print('HEAVY', *sorted({{name.split('.')[0] for name in sys.modules}} & set({HEAVY!r}))))\n"
        "runpy.run_path(script, run_name='__main__')"
    )
    begin = _cpu_s_of_children()
    done = subprocess.run(
        [sys.executable, "-c", watcher, str(script), argument], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert _cpu_s_of_children() - begin < LAZY_HELP_S
    assert done.stdout.rstrip().splitlines()[-1:] == ["HEAVY"], (done.stdout[-300:], done.stderr[-2000:])
    assert "Traceback" not in done.stderr
    assert done.returncode in ((2,) if "nonsense" in argument else (0, 2))
    if argument == "--help":
        assert "Keys:" in done.stdout
