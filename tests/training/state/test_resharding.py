"""Checkpoints do not care how many workers or which ZeRO stage wrote them: real DeepSpeed over gloo, in processes without Ray."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.system


def launch(num_workers, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = os.environ | {
        "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(num_workers)
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.training.state.resharding", *map(str, arguments)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(num_workers)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * num_workers, "\n".join(outputs)


def test_nothing_is_compiled_before_the_first_step(tmp_path, monkeypatch):
    """DeepSpeed would build a C++ all-reduce first, for 90 s on two cores."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    launch(1, tmp_path, "none", "a", 1, 0, "adamw")
    assert len(losses(tmp_path, 0)) == 1
    assert not (tmp_path / "extensions").exists()


def losses(directory, stage):
    lines = (directory / f"losses-{stage}.jsonl").read_text().splitlines()
    return [loss for line in lines for loss in json.loads(line)]


def test_every_zero_stage_goes_on_with_another_number_of_workers_in_mid_epoch(tmp_path):
    undisturbed, moved = tmp_path / "undisturbed", tmp_path / "moved"
    undisturbed.mkdir()
    moved.mkdir()
    launch(1, undisturbed, "none", "a", 9, 0, "adamw")
    launch(2, moved, "none", "a", 3, 0, "adamw")
    launch(1, moved, "a", "b", 3, 0, "adamw")
    launch(2, moved, "b", "c", 3, 1, "adamw")  # two workers again, and each stage takes up what another one wrote
    for stage in range(4):
        assert len(losses(moved, stage)) == 9
        np.testing.assert_allclose(losses(moved, stage), losses(undisturbed, 0), rtol=2e-5)


@pytest.mark.faults
@pytest.mark.parametrize(("recipe", "stages"), [("sgd", 4), ("adafactor", 1), ("lora", 4)])
def test_other_recipes_go_on_too(tmp_path, recipe, stages):
    undisturbed, moved = tmp_path / "undisturbed", tmp_path / "moved"
    undisturbed.mkdir()
    moved.mkdir()
    launch(1, undisturbed, "none", "a", 6, 0, recipe)
    launch(2, moved, "none", "a", 3, 0, recipe)
    launch(1, moved, "a", "b", 3, 0, recipe)
    for stage in range(stages):
        whole = losses(undisturbed, 0)
        assert whole[0] - whole[-1] > 0.01
        np.testing.assert_allclose(losses(moved, stage), whole, rtol=2e-5)
