"""What holds of every step: the suite runs over the members of the union, so that a new one is tested by being listed there.

A step whose defaults do not suit an agent of a few thousand weights gets its options in `OPTIONS`.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import transformers
import yaml
from safetensors.numpy import load_file

from agent.config.base import Config, describe, from_mapping
from agent.errors import ConfigError
from compression.encoder.torch_model import load_directory, torch_forward
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.reporting.compression_report import CompressionReport
from compression.steps import ORDER, BaseStep, Step
from tests.commands import commands_run_here
from tests.compression.pipeline.test_pipeline import QUICK, check, run

KINDS: list[type[BaseStep]] = list(get_args(get_args(Step)[0]))
NAMES = [kind.model_fields["kind"].default for kind in KINDS]
OPTIONS: dict[str, dict[str, Any]] = {
    "shrink": {"layers": 1, "ffn_units": 64},
    "distill": {"epochs": 1, "batch_tokens": 512},
    "export": {"exporter": "torchscript"},
    "cascade": {"layers": 1, "epochs": 1, "batch_tokens": 256, "dev_score_kept": 0},
    "verify": {"rounds": 1, "max_sentences": 16},
}
FOR_WRITERS = [
    kind.model_fields["kind"].default for kind in KINDS if kind.for_writers
]  # taken in tests/compression/writing
TRAINS = {"distill"}  # system tests, which share a Ray; as a process of its own: test_shrink.py


class TrialOutcome(NamedTuple):
    report: CompressionReport
    output: Path
    before: dict[str, str]
    parent: Path


def options(name: str) -> dict[str, Any]:
    return {"kind": name, **OPTIONS.get(name, {})}


def steps_for(name: str) -> list[dict[str, Any]]:
    """The shortest list that a step can be taken in, without verify."""
    for before in ([], ["export"]):
        steps = [options(kind) for kind in [*before, name] if kind != "verify"]
        try:
            from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": [*steps, QUICK]})
        except ConfigError:
            continue
        return steps
    raise AssertionError(f"step {name} can be taken neither alone nor after export")


def digests(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.system if name in TRAINS else ())
        for name in NAMES
        if name not in FOR_WRITERS
    ],
)
def outcome(
    request: pytest.FixtureRequest, tagger: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, TrialOutcome, TrialOutcome]:
    """A step taken twice with the same seed."""
    name = request.param
    if name in TRAINS:
        pytest.importorskip("deepspeed")
    found = []
    with commands_run_here() if name in TRAINS else nullcontext():
        for attempt in ("one", "two"):
            before = digests(tagger)
            output = tmp_path_factory.mktemp(f"{name}-{attempt}") / "out"
            found.append(TrialOutcome(run(tagger, output, steps_for(name), seed=7), output, before, tagger))
    return name, found[0], found[1]


@pytest.mark.parametrize("name", NAMES)
def test_its_configuration_survives_yaml(name: str) -> None:
    tree = {"bundle": "a", "output": "b", "steps": [*steps_for(name), QUICK]}
    config = from_mapping(CompressionConfig, tree)
    again = from_mapping(CompressionConfig, yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config


def leaves(name: str, field: Any) -> list[tuple[str, Any]]:
    """A key, or those of the configuration that it holds."""
    if isinstance(field.default, Config):
        inner = type(field.default).model_fields
        return [leaf for key in inner for leaf in leaves(f"{name}.{key}", inner[key])]
    return [(name, field)]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_help_names_it_and_describes_every_key(kind: type[BaseStep]) -> None:
    shown = "\n".join(describe(CompressionConfig))
    assert kind.model_fields["kind"].default in shown
    for key in sorted(set(kind.model_fields) - {"kind"}):
        assert f"steps[].{key}" in shown
        for place, field in leaves(key, kind.model_fields[key]):
            assert field.description, f"{kind.__name__}.{place} has no description"
    assert kind.__doc__
    assert kind.__doc__ != BaseStep.__doc__


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrong", [{"nonsense": 1}, {"kind": None}])
def test_it_refuses_nonsense_by_name(name: str, wrong: dict[str, Any]) -> None:
    steps = [one | wrong if one["kind"] == name else one for one in [*steps_for(name), {**QUICK}]]
    with pytest.raises(ConfigError, match="nonsense" if "nonsense" in wrong else "kind"):
        from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": steps})


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_numbers_that_make_no_sense_are_refused(kind: type[BaseStep]) -> None:
    """Every number of a step has bounds: minus a million is in none of them."""
    numbers = [
        key for key, field in kind.model_fields.items() if field.annotation in (int, float, int | None, float | None)
    ]
    for key in numbers:
        with pytest.raises(ConfigError, match=key):
            from_mapping(kind, {**options(kind.model_fields["kind"].default), key: -1_000_000}).check()


def test_kinds_and_places_are_their_own() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(ORDER)
    assert len({kind.position for kind in KINDS}) == len(KINDS)
    assert set(ORDER) == set(NAMES)
    assert all(issubclass(kind, Config) for kind in KINDS)


def test_the_original_is_left_as_it_was(outcome: tuple[str, TrialOutcome, TrialOutcome]) -> None:
    _, one, _ = outcome
    assert digests(one.parent) == one.before


def test_what_comes_out_is_a_bundle_that_loads(outcome: tuple[str, TrialOutcome, TrialOutcome]) -> None:
    """Manifest, lineage, labels, graphs that say what PyTorch says, nothing left beside the output."""
    _, one, _ = outcome
    bundle = check(one.output, one.report, one.parent)
    model = getattr(transformers, bundle.task.architecture).from_pretrained(one.output)
    assert model.config.vocab_size >= bundle.encoder.tokenizer.get_vocab_size()
    texts = ["anna went to oslo .", "zzz 42 ?"]
    (first, second) = bundle.encoder.encode_texts(texts)
    assert len(first.pieces.firsts) == 5
    assert max(*first.token_ids.tolist(), *second.token_ids.tolist()) < model.config.vocab_size
    forward = torch_forward(load_directory(one.output, bundle.task.architecture))
    from agent.batching import pad

    assert forward(pad([*first.windows, *second.windows], bundle.encoder.pad_id)).shape[-1] == len(bundle.task.outputs)


def test_the_same_seed_gives_the_same_weights_and_answers(outcome: tuple[str, TrialOutcome, TrialOutcome]) -> None:
    name, one, two = outcome
    assert one.report.notes == two.report.notes
    if name in TRAINS:  # several threads add up in any order
        first, second = (load_file(found.output / "model.safetensors") for found in (one, two))
        assert first.keys() == second.keys()
        assert max(float(np.abs(first[key] - second[key]).max()) for key in first) < 1e-3
        return
    files = [file for file in digests(one.output) if file.endswith((".safetensors", ".onnx", "tokenizer.json"))]
    assert {file: digests(one.output)[file] for file in files} == {file: digests(two.output)[file] for file in files}
    assert [(row.name, row.quality) for row in one.report.model_rows] == [
        (row.name, row.quality) for row in two.report.model_rows
    ]


def test_its_measurement_is_recorded(outcome: tuple[str, TrialOutcome, TrialOutcome]) -> None:
    name, one, _ = outcome
    (row,) = [row for row in one.report.step_rows if row.kind == name]
    assert row.seconds > 0
    recorded = json.loads((one.output / "report.json").read_text())
    assert [step["kind"] for step in recorded["step_rows"]] == [
        "original",
        *(step["kind"] for step in steps_for(name)),
        "verify",
    ]
    if name == "verify":
        assert one.report.model_rows[0].quality.support > 0
        return
    found = row.measurement
    assert found is not None
    assert row.num_examples == 24
    assert set(found.latency) == {16, 48} or set(found.latency) == {16}
    assert (
        min(found.size_bytes, found.parameters, found.flops_per_token or 0, found.sentences_per_s or 0, row.speed or 0)
        > 0
    )
    assert found.agreement is not None
    assert 0 <= found.agreement.words <= 1
    assert found.calibration_error is not None
    assert any(key.startswith("f1.") for key in found.quality.metrics)


def test_it_says_what_it_did(outcome: tuple[str, TrialOutcome, TrialOutcome]) -> None:
    name, one, _ = outcome
    assert name == "verify" or any(note.startswith(f"{name}:") for note in one.report.notes)
