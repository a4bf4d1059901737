"""What importing our packages keeps libraries from doing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["agent.bundle", "compression.graphs.onnx_graph", "serving.inference.sessions"])
def test_onnx_runtime_writes_nothing_about_this_machine(module: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    switches = {"ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME"}  # the import is silent in CI anyway
    environment = {name: value for name, value in os.environ.items() if name not in switches} | {"HOME": str(tmp_path)}
    code = f"import {module}, onnxruntime; onnxruntime.get_available_providers()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
