"""Pruning: the scores are what they say, every ratio and every target is met by as little as does, zeros survive recovery."""

from __future__ import annotations

import copy
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.errors import ConfigError, ModelError
from compression.encoder.encoder_structure import find_blocks
from compression.encoder.flops import flops_per_token
from compression.encoder.structural_pruning import live_heads, live_units, num_parameters, slim
from compression.encoder.torch_model import load_model, torch_forward
from compression.graphs.onnx_graph import largest_difference, probes
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.pruning.calibration import calibrate, labelled_batches, total_loss
from compression.pruning.pruning_target import flops_of, weights_of, zero
from compression.steps import PruneStep, QuantizeStep, prune
from compression.steps.prune import LEAST_UNITS
from tests.compression.agents import MAX_TOKENS, SHAPES, tiny_model
from tests.compression.encoder.test_structural_pruning import CLASSIFIER, TAGGER
from tests.compression.pipeline.test_pipeline import check, run
from tests.compression.steps.test_shrink import EXPORT, state_of

IMPORTANCE = pytest.mark.parametrize("importance", ["first_order", "fisher"])


def state(tagger: Path) -> Any:
    return state_of(tagger, load_model(Bundle.load(tagger)))


@IMPORTANCE
def test_scores_are_those_of_gates_on_heads_and_units(tagger: Path, importance: Any) -> None:
    """By autograd: the derivative of every window's loss by a gate that all of them pass."""
    own = state(tagger)
    batches = labelled_batches(own.bundle.task, own.encoder, own.splits.train[:12])
    seen = calibrate(own.model, batches, importance)
    for projections, size in ((seen.heads, find_blocks(own.model)[0].head_size), (seen.units, 1)):
        for projection in projections:
            wanted = torch.zeros(len(projection.scores))
            for labelled in batches:
                effects = []
                for row in range(len(labelled.batch.input_ids)):
                    gate = torch.ones(len(wanted), requires_grad=True)
                    hook = projection.slot.linear.register_forward_pre_hook(
                        lambda _, inputs, gate=gate, size=size: (inputs[0] * gate.repeat_interleave(size),)
                    )
                    one = copy.deepcopy(labelled)
                    one.targets[[other for other in range(len(one.targets)) if other != row]] = -100
                    effects.append(torch.autograd.grad(total_loss(own.model, one), gate)[0])
                    hook.remove()
                stacked = torch.stack(effects)
                wanted += (stacked.square() if importance == "fisher" else stacked.abs()).sum(0)
            torch.testing.assert_close(projection.scores, wanted, rtol=1e-3, atol=1e-5)


def test_activations_that_are_no_numbers_are_named_by_their_module(tagger: Path) -> None:
    own = state(tagger)
    find_blocks(own.model)[1].ffn_input.linear.bias.data[3] = torch.inf
    with pytest.raises(ModelError, match=r"the input of bert\.encoder\.layer\.1\.output\.dense is not finite"):
        PruneStep(num_calibration=8).run(own)


@IMPORTANCE
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(heads=st.floats(0, 0.99), units=st.floats(0, 0.99), repair=st.booleans())
def test_every_ratio_is_met_and_the_graph_is_physically_smaller(
    tagger: Path, importance: Any, heads: float, units: float, repair: bool
) -> None:
    own = state(tagger)
    whole = num_parameters(own.model)
    PruneStep(head_ratio=heads, ffn_ratio=units, importance=importance, repair=repair, num_calibration=16).run(own)
    blocks = find_blocks(own.model)
    gone_heads = sum(int((~live_heads(block)).sum()) for block in blocks)
    gone_units = sum(int((~live_units(block)).sum()) for block in blocks)
    assert gone_heads == min(int(heads * 8), 8 - 2)
    assert gone_units == min(int(units * 192), 192 - 2 * LEAST_UNITS)
    smaller = slim(own.model)
    gap, _ = largest_difference(torch_forward(own.model), torch_forward(smaller), probes(100, MAX_TOKENS, seed=1))
    assert gap < 1e-4
    head, unit = weights_of(blocks[0])
    assert num_parameters(smaller) == whole - gone_heads * head - gone_units * unit


@pytest.mark.parametrize("family", SHAPES)
@settings(max_examples=6)
@given(data=st.data())
def test_the_arithmetic_of_costs_is_that_of_the_slimmed_network(family: str, data: st.DataObject) -> None:
    model = tiny_model(family, data.draw(st.sampled_from([TAGGER, CLASSIFIER])))
    weights, flops = num_parameters(model), flops_per_token(model, MAX_TOKENS)
    for block in find_blocks(model):
        heads = torch.tensor(data.draw(st.lists(st.booleans(), min_size=4, max_size=4)))
        heads[0] = True
        units = torch.arange(96) < data.draw(st.integers(1, 96))
        zero(block, heads, units)
        gone = int((~heads).sum()), int((~units).sum())
        weights -= sum(number * cost for number, cost in zip(gone, weights_of(block), strict=True))
        flops -= sum(number * cost for number, cost in zip(gone, flops_of(block, MAX_TOKENS), strict=True))
    assert num_parameters(slim(model)) == weights
    assert flops_per_token(slim(model), MAX_TOKENS) == pytest.approx(flops, abs=1)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    part=st.floats(0.02, 1),
    name=st.sampled_from(["parameters", "size_mb", "flops_per_token"]),
    rounds=st.integers(1, 3),
)
def test_a_target_is_reached_by_removing_as_little_as_does(tagger: Path, part: float, name: str, rounds: int) -> None:
    own = state(tagger)

    def cost(model: Any) -> float:
        weights = num_parameters(model)
        return {"parameters": weights, "size_mb": weights * 4 / 1e6, "flops_per_token": 0}[name] or flops_per_token(
            model, MAX_TOKENS
        )

    whole = cost(own.model)
    least = copy.deepcopy(own)
    PruneStep(head_ratio=0.99, ffn_ratio=0.99, num_calibration=16).run(least)
    wanted = cost(slim(least.model)) + part * (whole - cost(slim(least.model)))
    wanted = round(wanted) if name != "size_mb" else wanted
    PruneStep(target={name: wanted}, rounds=rounds, num_calibration=16).run(own)
    found = cost(slim(own.model))
    head, unit = ({"parameters": weights_of, "size_mb": weights_of}.get(name) or (lambda b: flops_of(b, MAX_TOKENS)))(
        find_blocks(own.model)[0]
    )
    scale = 4 / 1e6 if name == "size_mb" else 1
    assert found <= wanted + 1
    assert found > wanted - scale * (head + unit) - 1
    assert f"for {name}" in own.notes[-1]


@pytest.mark.parametrize("name", ["latency_ms", "speedup"])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_speed_is_reached_by_a_table_of_measured_ones(
    tagger: Path, monkeypatch: pytest.MonkeyPatch, name: str, quantized: bool
) -> None:
    """The clock tells what it is told to: half of the time when all is removed that can be. All else is real."""
    seen: list[int] = []

    def clock(forward: Any, batch: Any) -> float:
        forward(batch)
        seen.append(len(batch.input_ids))
        return (1 - 0.5 * (len(seen) - 1) // 3 % 5 / 4) * 0.01

    monkeypatch.setattr("compression.measurement.speed.seconds_of", clock)
    own = state(tagger)
    own.steps = (QuantizeStep(),) if quantized else ()
    wanted = 7.5 if name == "latency_ms" else 4 / 3
    PruneStep(head_ratio=0.5, ffn_ratio=0.5, target={name: wanted}, num_calibration=16).run(own)
    assert set(seen) == {1 if name == "latency_ms" else 32}
    units = sum(int((~live_units(block)).sum()) for block in find_blocks(own.model))
    assert units == pytest.approx(96, abs=20)  # half of the way: some layers can give no more


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({"parameters": 10}, r"prune\.target\.parameters=10 is out of reach.*at least \d+"),
        ({"size_mb": 0.001}, r"prune\.target\.size_mb=0\.001 is out of reach"),
        ({"flops_per_token": 10}, r"prune\.target\.flops_per_token=10 is out of reach"),
        ({"speedup": 1e6}, r"prune\.target\.speedup=1e\+06 is out of reach.*at most"),
    ],
)
def test_a_target_out_of_reach_is_refused_with_what_would_be_reached(
    tagger: Path, target: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneStep(target=target, num_calibration=16).run(state(tagger))


def test_a_target_that_is_reached_already_removes_nothing(tagger: Path) -> None:
    own = state(tagger)
    before = torch_forward(copy.deepcopy(own.model))
    PruneStep(target={"parameters": 10**9}).run(own)
    gap, _ = largest_difference(before, torch_forward(own.model), probes(100, MAX_TOKENS, seed=1))
    assert gap == 0
    assert "8 of 8 heads stay" in own.notes[-1]


def test_ratios_are_halved_until_the_dev_score_is_kept(tagger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = state(tagger)
    needed, harsh = (
        0.9 * prune._dev_score(own),
        {"head_ratio": 0.7, "ffn_ratio": 0.9, "repair": False, "num_calibration": 32},
    )
    scores, gone = [], []
    for factor in (1.0, 0.5, 0.25, 0.125):
        one = state(tagger)
        ratios = {name: factor * harsh[name] for name in ("head_ratio", "ffn_ratio")}
        PruneStep(**harsh | ratios).run(one)
        scores.append(prune._dev_score(one))
        gone.append([live_units(block).tolist() for block in find_blocks(one.model)])
    kept = next((number for number, score in enumerate(scores) if score >= needed), 3)
    assert kept > 0, scores
    PruneStep(**harsh, dev_score_kept=0.9).run(own)
    assert [live_units(block).tolist() for block in find_blocks(own.model)] == gone[kept]
    assert prune._dev_score(own) == scores[kept]
    assert capsys.readouterr().out.count("again with half of the ratios") == kept
    assert "to keep 90.0% of the dev score: " in own.notes[-1]


def test_ratios_that_keep_the_dev_score_are_not_halved(tagger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = state(tagger), state(tagger)
    PruneStep(head_ratio=0.2, num_calibration=16).run(own)
    PruneStep(head_ratio=0.2, num_calibration=16, dev_score_kept=1e-9).run(other)
    assert "again with half" not in capsys.readouterr().out
    assert other.notes == own.notes
    gap, _ = largest_difference(torch_forward(own.model), torch_forward(other.model), probes(100, MAX_TOKENS, seed=1))
    assert gap == 0


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"target": {}}, "give exactly one of parameters, size_mb"),
        ({"target": {"parameters": 5, "size_mb": 1}}, "give exactly one"),
        ({"target": {"speedup": 0.5}}, "greater than or equal to 1"),
        ({"target": {"size": 3}}, "size"),
        ({"target": {"parameters": 5}, "head_ratio": 0, "ffn_ratio": 0}, "needs head_ratio or ffn_ratio above 0"),
        ({"importance": "magnitude"}, "first_order"),
        ({"target": {"parameters": 5}, "dev_score_kept": 0.9}, "dev_score_kept is for ratios alone, without target"),
        ({"recovery_epochs": 1, "dev_score_kept": 0.9}, "dev_score_kept is for ratios alone, without target"),
        ({"dev_score_kept": 1.5}, "less than or equal to 1"),
        ({"rounds": 0}, "greater than or equal to 1"),
        ({"recovery": {"hidden": 1}}, "hidden"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(step: dict[str, Any], told: str) -> None:
    tree = {"bundle": "a", "output": "b", "steps": [{"kind": "prune", **step}, "verify"]}
    with pytest.raises(ConfigError, match=told):
        from_mapping(CompressionConfig, tree)


@IMPORTANCE
def test_rounds_never_give_back_what_went_before(
    tagger: Path, monkeypatch: pytest.MonkeyPatch, importance: Any
) -> None:
    own = state(tagger)
    gone: list[list[torch.Tensor]] = []
    remove = PruneStep._remove

    def watch(self: PruneStep, *arguments: Any) -> None:
        remove(self, *arguments)
        gone.append([~live_units(block) for block in find_blocks(own.model)])

    monkeypatch.setattr(PruneStep, "_remove", watch)
    PruneStep(ffn_ratio=0.6, rounds=3, importance=importance, num_calibration=32).run(own)
    counts = [sum(int(layer.sum()) for layer in layers) for layers in gone]
    assert counts == sorted(counts)
    assert counts[-1] == int(0.6 * 192)
    assert counts[0] == int(0.6 * (1 - (2 / 3) ** 3) * 192)
    for before, after in itertools.pairwise(gone):
        for one, other in zip(before, after, strict=True):
            assert torch.all(other[one])


@pytest.mark.system
@pytest.mark.usefixtures("commands_here")
def test_recovery_between_rounds_keeps_zeros_and_wins_back_what_was_lost(tagger: Path, tmp_path: Path) -> None:
    harsh = {"kind": "prune", "head_ratio": 0.5, "ffn_ratio": 0.8, "repair": False, "importance": "fisher"}
    recovery = {"learning_rate": 0.005, "batch_tokens": 128, "hidden_weight": 0.1}
    lost = run(tagger, tmp_path / "lost", [harsh, EXPORT])
    report = run(tagger, tmp_path / "out", [harsh | {"rounds": 2, "recovery_epochs": 3, "recovery": recovery}, EXPORT])
    assert report.model_rows[-1].score > lost.model_rows[-1].score
    assert report.model_rows[-1].parameters <= lost.model_rows[-1].parameters
    shutil.rmtree(tmp_path / "lost")
    check(tmp_path / "out", report, tagger)
    assert any("2 rounds; after each 3 epochs" in note for note in report.notes)
    assert np.isfinite(report.model_rows[-1].score)
