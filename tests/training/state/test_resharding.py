"""Checkpoints do not care how many workers or which ZeRO stage wrote them: real DeepSpeed over gloo, in processes without Ray."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.training.processes import launch
from tests.training.state.resharding import train_rank

pytestmark = pytest.mark.system


def reshard(num_workers, *arguments, **keywords):
    launch(num_workers, train_rank, *arguments, **keywords)


def losses(directory, stage):
    lines = (directory / f"losses-{stage}.jsonl").read_text().splitlines()
    return [loss for line in lines for loss in json.loads(line)]


def test_three_workers_at_zero_stages_2_and_3_hand_over_to_one_at_3_and_0_and_nothing_is_compiled(
    tmp_path, monkeypatch
):
    """DeepSpeed would build a C++ all-reduce before the first step, for 90 s on two cores."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    undisturbed, moved = tmp_path / "undisturbed", tmp_path / "moved"
    undisturbed.mkdir()
    moved.mkdir()
    reshard(1, undisturbed, "none", "a", 6, rotation=0, recipe="adamw", stages="0")
    reshard(3, moved, "none", "a", 3, rotation=0, recipe="adamw", stages="23")
    reshard(1, moved, "a", "b", 3, rotation=1, recipe="adamw", stages="23")
    for stage in (2, 3):
        assert len(losses(moved, stage)) == 6
        np.testing.assert_allclose(losses(moved, stage), losses(undisturbed, 0), rtol=2e-5)
    assert not (tmp_path / "extensions").exists()


@pytest.mark.faults
def test_every_zero_stage_goes_on_with_another_number_of_workers_in_mid_epoch(tmp_path):
    undisturbed, moved = tmp_path / "undisturbed", tmp_path / "moved"
    undisturbed.mkdir()
    moved.mkdir()
    reshard(1, undisturbed, "none", "a", 9, rotation=0, recipe="adamw", stages="0")
    reshard(2, moved, "none", "a", 3, rotation=0, recipe="adamw")
    reshard(1, moved, "a", "b", 3, rotation=0, recipe="adamw")
    reshard(
        2, moved, "b", "c", 3, rotation=1, recipe="adamw"
    )  # two workers again, and each stage takes up what another one wrote
    for stage in range(4):
        assert len(losses(moved, stage)) == 9
        np.testing.assert_allclose(losses(moved, stage), losses(undisturbed, 0), rtol=2e-5)


@pytest.mark.faults
@pytest.mark.parametrize(("recipe", "stages"), [("sgd", "0123"), ("adafactor", "0"), ("lora", "0123")])
def test_other_recipes_go_on_too(tmp_path, recipe, stages):
    undisturbed, moved = tmp_path / "undisturbed", tmp_path / "moved"
    undisturbed.mkdir()
    moved.mkdir()
    reshard(1, undisturbed, "none", "a", 6, rotation=0, recipe=recipe, stages="0")
    reshard(2, moved, "none", "a", 3, rotation=0, recipe=recipe, stages=stages)
    reshard(1, moved, "a", "b", 3, rotation=0, recipe=recipe, stages=stages)
    for stage in stages:
        whole = losses(undisturbed, 0)
        assert whole[0] - whole[-1] > 0.01
        np.testing.assert_allclose(losses(moved, stage), whole, rtol=2e-5)
