"""Shrinking: the stock architecture loads what remains, what does nothing goes first, too much is refused; then a student is taught."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.errors import ConfigError, ExportError, TrainingError
from agent.tasks.record_fields import LoggedReward
from compression.distillation.student_training import student_key
from compression.encoder.encoder_structure import find_blocks, keep_layers, layers_of, set_units
from compression.encoder.structural_pruning import keep_units, num_parameters
from compression.encoder.torch_model import load_directory, load_model, save_model, torch_forward
from compression.graphs.onnx_graph import largest_difference, probes
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.state.pipeline_state import PipelineState
from compression.steps import DistillStep, ShrinkStep
from tests.compression.agents import MAX_TOKENS, SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER
from tests.compression.pipeline.test_pipeline import check, run
from training.config import TrainingConfig

EXPORT = {"kind": "export", "exporter": "torchscript"}


@pytest.mark.parametrize("family", SHAPES)
@settings(max_examples=4)
@given(layers=st.integers(1, 2), units=st.integers(1, 96))
def test_what_remains_is_loaded_by_its_stock_architecture(
    family: str, layers: int, units: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tiny_model(family, TAGGER)
    before = num_parameters(model)
    keep_layers(model, layers_of(model)[2 - layers :])
    keep = torch.arange(96) < units
    for block in find_blocks(model):
        keep_units(block, keep)
    set_units(model, units)
    directory = tmp_path_factory.mktemp("shrunk")
    save_model(model, directory)
    loaded = load_directory(directory, TAGGER.architecture)
    gap, _ = largest_difference(torch_forward(model), torch_forward(loaded), probes(300, MAX_TOKENS, seed=1))
    assert gap < 1e-5
    assert num_parameters(loaded) == num_parameters(model) <= before
    assert len(layers_of(loaded)) == layers


def state_of(bundle: Path, model: Any) -> PipelineState:
    """A run at its beginning, on a network of the test's own."""
    loaded = Bundle.load(bundle)
    data = DataConfig(path=str(bundle.parent / "data"))
    return PipelineState(
        bundle=loaded, data=data, splits=load_splits(data, loaded.task), directory=bundle, work_directory=bundle.parent,
        original=model, model=model, encoder=loaded.encoder, steps=(), threads=1, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("idle", [0, 1])
def test_the_layer_without_which_nothing_changes_goes_first(tagger: Path, idle: int) -> None:
    model = load_model(Bundle.load(tagger))
    block = find_blocks(model)[idle]
    for slot in (block.attention_output, block.ffn_output):  # what is left of the layer is a norm of something normed
        torch.nn.init.zeros_(slot.linear.weight)
        torch.nn.init.zeros_(slot.linear.bias)
    for module in layers_of(model)[idle].modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    kept = layers_of(model)[1 - idle]
    state = state_of(tagger, model)
    ShrinkStep(layers=1).run(state)
    assert layers_of(state.model) == [kept]
    assert state.weights_changed
    assert f"layers {idle} removed" in state.notes[0]
    assert state.step_outputs == {"shrink.layers": [1 - idle]}


def test_units_that_nobody_reads_go_first(tagger: Path) -> None:
    model = load_model(Bundle.load(tagger))
    for block in find_blocks(model):
        block.ffn_output.linear.weight.data[:, ::3] = 0
    reference = torch_forward(copy.deepcopy(model))
    state = state_of(tagger, model)
    ShrinkStep(ffn_units=64).run(state)  # of 96, 32 idle
    gap, _ = largest_difference(reference, torch_forward(state.model), probes(100, MAX_TOKENS, seed=2))
    assert [block.num_units for block in find_blocks(state.model)] == [64, 64]
    assert gap < 0.2  # the repair moves what is left within its ridge


@pytest.mark.parametrize("importance", ["first_order", "fisher"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.integers(1, 2), units=st.integers(8, 96))
def test_every_size_that_there_is_remains_exactly(tagger: Path, importance: str, layers: int, units: int) -> None:
    state = state_of(tagger, load_model(Bundle.load(tagger)))
    ShrinkStep(layers=layers, ffn_units=units, importance=importance, num_calibration=16).run(state)
    assert [block.num_units for block in find_blocks(state.model)] == [units] * layers
    assert (state.model.config.num_hidden_layers, state.model.config.intermediate_size) == (layers, units)
    for batch in probes(100, MAX_TOKENS, seed=2):
        assert np.isfinite(torch_forward(state.model)(batch)).all()


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"kind": "shrink", "layers": 3}, r"shrink\.layers=3, but the agent has 2"),
        ({"kind": "shrink", "ffn_units": 97}, r"shrink\.ffn_units=97, but the agent has 96"),
    ],
)
def test_more_than_there_is_is_refused(tagger: Path, tmp_path: Path, step: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run(tagger, tmp_path / "out", [step])
    assert not list(tmp_path.iterdir())


def test_shrinking_by_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="give layers, ffn_units"):
        from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": ["shrink", "verify"]})


def test_shrinking_alone_gives_a_smaller_bundle(tagger: Path, tmp_path: Path) -> None:
    report = run(tagger, tmp_path / "out", [{"kind": "shrink", "layers": 1, "ffn_units": 48}, EXPORT, "quantize"])
    check(tmp_path / "out", report, tagger)
    original, shrunk = report.model_rows[0], report.model_rows[1]
    assert shrunk.parameters < original.parameters
    assert shrunk.size_bytes < original.size_bytes


@pytest.mark.system
@pytest.mark.long
@pytest.mark.usefixtures("ray_for_commands")
def test_a_student_is_taught_and_an_interrupted_run_does_not_teach_it_again(
    tagger: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [
        {"kind": "shrink", "layers": 1, "ffn_units": 48},
        {"kind": "distill", "epochs": 6, "learning_rate": 0.005, "batch_tokens": 128},
        EXPORT,
    ]
    untaught = run(tagger, tmp_path / "untaught", [steps[0], EXPORT])
    with pytest.raises(ExportError):
        run(tagger, tmp_path / "out", [*steps[:2], EXPORT | {"tolerance": 1e-30}])
    capfd.readouterr()
    report = run(tagger, tmp_path / "out", steps)
    assert "finished steps: shrink, distill" in capfd.readouterr().out
    assert report.model_rows[1].score > untaught.model_rows[1].score
    shutil.rmtree(tmp_path / "untaught")
    check(tmp_path / "out", report, tagger)


@pytest.mark.system
def test_training_that_fails_ends_the_run_and_publishes_nothing(
    tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(TrainingError, match="give the same command again"):
        run(tagger, tmp_path / "out", ["distill"])
    assert not (tmp_path / "out").exists()


def test_a_student_is_another_one_after_other_steps(tagger: Path) -> None:
    bundle = Bundle.load(tagger)
    common = {"seed": 0, "bundle": bundle, "splits": SimpleNamespace(digest="d")}
    distill = DistillStep()
    digests = {
        student_key(SimpleNamespace(steps=(ShrinkStep(layers=layers), distill), **common), distill.position)
        for layers in (1, 2)
    }
    assert len(digests) == 2


def test_what_a_student_is_to_hear_reaches_training(tagger: Path, tmp_path: Path) -> None:
    state = state_of(tagger, load_model(Bundle.load(tagger)))
    state.data = DataConfig(path=str(tagger.parent / "data"))
    ShrinkStep(layers=1, num_calibration=8).run(state)
    (tmp_path / "text.txt").write_text("anna\n", encoding="utf-8")
    step = DistillStep(
        hidden_weight=0.5,
        relations_weight=0.25,
        relations_layer=1,
        relation_heads=2,
        unlabelled=str(tmp_path / "text.txt"),
    )
    told = from_mapping(TrainingConfig, step._settings(state, tmp_path, epochs=2, keep_zeros=True))
    assert told.teacher is not None
    assert (told.teacher.hidden.weight, told.teacher.relations.weight) == (0.5, 0.25)
    assert told.teacher.hidden.layers == (state.step_outputs["shrink.layers"][0] + 1,)
    assert (told.teacher.relations.layer, told.teacher.relations.heads) == (1, 2)
    assert told.teacher.unlabelled == str(tmp_path / "text.txt")
    assert (told.model.keep_zeros, told.epochs) == (True, 2)
    assert not from_mapping(
        TrainingConfig, DistillStep()._settings(state, tmp_path, epochs=2, keep_zeros=False)
    ).teacher.uses_activations  # type: ignore[union-attr]


def test_logged_decisions_are_taught_to_students_by_their_rewards_and_not_taken_for_labels(
    tagger: Path, tmp_path: Path
) -> None:
    state = state_of(tagger, load_model(Bundle.load(tagger)))
    state.data, (labelled, *others) = DataConfig(path=str(tagger.parent / "data")), state.splits.train
    assert DistillStep()._settings(state, tmp_path, epochs=1, keep_zeros=False)["objective"]["kind"] == "cross_entropy"
    logged = [example.model_copy(update={"logged": LoggedReward(0.5, 1.0)}) for example in others]
    state.splits = replace(state.splits, train=[*logged, labelled])
    assert (
        DistillStep()._settings(state, tmp_path, epochs=1, keep_zeros=False)["objective"]["kind"] == "reward_likelihood"
    )
    assert state.sample_train(10) == [labelled]
