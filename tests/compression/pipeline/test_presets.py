"""Presets: valid lists of steps that are told by --help, printed when they are taken, and replaced by steps that are given."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from agent.config import cli
from agent.config.base import from_mapping, load
from agent.errors import ConfigError
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.pipeline.presets import PRESETS, written_steps
from compression.run import USAGE, main
from compression.steps import PruneStep, QuantizeStep
from compression.tuning.compression_search import CompressionSearchConfig

PLACES = {"bundle": "a", "output": "b"}
WHERE = ["bundle=a", "output=b"]


def test_help_says_of_each_in_a_line_what_it_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CompressionConfig, main, usage=USAGE, arguments=["--help"]) == 0
    told = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  preset=")}
    assert [f"preset={name}" for name in PRESETS] == list(told)[: len(PRESETS)]
    for name, preset in PRESETS.items():
        assert told[f"preset={name}"].endswith(preset.about)
        assert len(told[f"preset={name}"]) <= 120


@pytest.mark.parametrize("name", PRESETS)
def test_it_is_printed_at_the_start_as_steps_that_can_be_given(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bundle=/nowhere", "output=/nowhere/out", f"preset={name}"]
    assert cli.run(CompressionConfig, main, usage=USAGE, arguments=arguments) != 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"preset {name}: steps='[")
    (given,) = shlex.split(printed.removeprefix(f"preset {name}: ").splitlines()[0])
    assert load(CompressionConfig, [*WHERE, given]).steps == PRESETS[name].steps


def test_a_run_without_a_preset_says_nothing_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bundle=/nowhere", "output=/nowhere/out"]
    assert cli.run(CompressionConfig, main, usage=USAGE, arguments=arguments) != 0
    assert "preset" not in capsys.readouterr().out
    assert from_mapping(CompressionConfig, PLACES).steps == PRESETS["fast"].steps


def test_steps_that_are_given_replace_the_presets_and_other_keys_stand_beside_it() -> None:
    chosen = load(CompressionConfig, [*WHERE, "preset=small", "steps=[prune,verify]", "gate.min_score_kept=0.9"])
    assert [step.kind for step in chosen.steps] == ["prune", "verify"]
    assert load(CompressionConfig, [*WHERE, "preset=small", "gate.min_score_kept=0.9"]).gate.min_score_kept == 0.9
    assert load(CompressionConfig, [*WHERE, "preset=small"]).steps == PRESETS["small"].steps


@pytest.mark.parametrize("given", ["tiny", "[fast]", "7"])
def test_an_unknown_one_is_refused_with_those_that_are_there(given: str) -> None:
    with pytest.raises(ConfigError, match=r"preset=.*'fast', 'exact', 'balanced' or 'small'"):
        load(CompressionConfig, [*WHERE, f"preset={given}"])


def test_the_resolved_configuration_is_the_same_configuration() -> None:
    for name in PRESETS:
        config = from_mapping(CompressionConfig, {**PLACES, "preset": name})
        assert from_mapping(CompressionConfig, config.model_dump(mode="json")) == config


def test_a_search_takes_the_steps_of_a_preset_too() -> None:
    config = load(CompressionSearchConfig, [*WHERE, "preset=exact"])
    assert [step.kind for step in config.steps] == ["export", "quantize", "verify"]
    assert config.compressed_with({"quantize.embeddings": False}).steps[1] == QuantizeStep(embeddings=False)


def test_options_are_written_where_they_differ_from_the_defaults() -> None:
    assert (
        written_steps([PruneStep(ffn_ratio=0.4), QuantizeStep()]) == "steps='[{kind: prune, ffn_ratio: 0.4}, quantize]'"
    )
