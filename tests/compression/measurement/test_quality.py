"""Calibration error by its definition, agreement with the original, counted work, and where the frontier lies."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.evaluation import evaluate
from compression.encoder.flops import flops_per_token
from compression.encoder.structural_pruning import slim
from compression.encoder.torch_model import load_model, torch_forward
from compression.measurement.quality import answer_examples, calibration_error
from compression.reporting.frontier_plot import Point, draw_frontier, frontier
from tests.compression.agents import tiny_model
from tests.compression.encoder.test_structural_pruning import TAGGER
from tests.compression.pipeline.test_pipeline import run


def test_the_calibration_error_is_the_mean_gap_of_confidence_and_accuracy() -> None:
    sure = np.full(10, 0.95, np.float32)
    assert calibration_error(sure, np.ones(10, bool)) == pytest.approx(0.05, abs=1e-6)
    assert calibration_error(sure, np.arange(10) < 4) == pytest.approx(0.55, abs=1e-6)
    # Two bins, each wrong in its own direction: their gaps do not cancel out.
    mixed = np.concatenate([sure, np.full(10, 0.55, np.float32)])
    right = np.concatenate([np.arange(10) < 8, np.ones(10, bool)])
    assert calibration_error(mixed, right) == pytest.approx((0.15 + 0.45) / 2, abs=1e-6)
    assert calibration_error(np.ones(3, np.float32), np.ones(3, bool)) == 0.0


@pytest.mark.parametrize("agent", ["tagger", "classifier"])
def test_an_agent_agrees_with_itself_and_less_with_another(agent: str, request: pytest.FixtureRequest) -> None:
    bundle = Bundle.load(request.getfixturevalue(agent))
    splits = load_splits(DataConfig(path=str(bundle.path.parent / "data")), bundle.task)
    forward = torch_forward(load_model(bundle))
    found = answer_examples(bundle.task, bundle.encoder, splits.test, forward)
    assert found.report == evaluate(bundle.task, bundle.encoder, splits.test, forward)
    assert len(found.confidences) == len(found.correct) == sum(map(len, found.choices))
    same = found.agreement(found)
    assert (same.texts, same.words) == (1.0, 1.0)
    untaught = tiny_model("bert", bundle.task, vocabulary=bundle.encoder.tokenizer.get_vocab_size())
    other = answer_examples(bundle.task, bundle.encoder, splits.test, torch_forward(untaught))
    less = other.agreement(found)
    assert less.words < 1.0
    assert less.texts < 1.0
    if agent == "classifier":
        assert less.words == less.texts
    assert other.calibration_error > found.calibration_error


def test_a_graph_that_says_nan_is_sure_of_nothing(tagger: Path) -> None:
    bundle = Bundle.load(tagger)
    splits = load_splits(DataConfig(path=str(tagger.parent / "data")), bundle.task)
    forward = torch_forward(load_model(bundle))
    found = answer_examples(bundle.task, bundle.encoder, splits.test, lambda batch: forward(batch) * np.float32("nan"))
    assert float(found.confidences.max()) == 0.0
    assert np.isfinite(found.calibration_error)


def test_work_is_what_the_matrices_say(tagger: Path) -> None:
    model = load_model(Bundle.load(tagger))
    hidden, units, tokens, outputs = 32, 96, 48, len(Bundle.load(tagger).task.outputs)
    weights = 2 * (4 * hidden * hidden + 2 * hidden * units) + hidden * outputs
    attention = 2 * 2 * tokens * hidden  # two layers, two products of every token with all
    assert flops_per_token(model, max_tokens=tokens) == 2 * (weights + attention)


def test_pruned_structure_is_no_work(tagger: Path, tmp_path: Path) -> None:
    report = run(tagger, tmp_path / "out", [{"kind": "prune", "head_ratio": 0.25, "ffn_ratio": 0.5}])
    original, pruned, _ = report.step_rows
    assert original.measurement
    assert pruned.measurement
    assert pruned.measurement.flops_per_token < original.measurement.flops_per_token
    assert pruned.measurement.parameters < original.measurement.parameters
    assert flops_per_token(slim(tiny_model("bert", TAGGER)), 48) > 0


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    points = [
        Point("a", 1.0, 1.0),
        Point("b", 2.0, 0.99),
        Point("beaten", 1.5, 0.98),
        Point("c", 3.0, 0.99),
        Point("d", 4.0, 0.9),
    ]
    assert [one.name for one in frontier(points)] == ["a", "c", "d"]


def test_the_picture_is_text_and_is_told_in_words(tmp_path: Path) -> None:
    draw_frontier(tmp_path / "one.svg", [Point("original", 1.0, 1.0), Point('"<int8>"', 3.5, 0.994)])
    draw_frontier(tmp_path / "two.svg", [Point("original", 1.0, 1.0), Point('"<int8>"', 3.5, 0.994)])
    root = ElementTree.parse(tmp_path / "one.svg").getroot()
    assert root.get("aria-label", "").endswith('"<int8>" 3.50 times as fast with 99.4% of the score.')
    assert '"<int8>"' in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_report_has_a_row_for_every_step_and_the_picture_beside_it(tagger: Path, tmp_path: Path) -> None:
    report = run(tagger, tmp_path / "out", ["prune", {"kind": "export", "exporter": "torchscript"}, "quantize"])
    page = (tmp_path / "out/report.md").read_text()
    trail = page[page.index("## After each step") :]
    for kind in ("original", "prune", "export", "quantize"):
        assert len(re.findall(rf"^\| {kind} \|", trail, re.MULTILINE)) == 3  # quality, speed, F1 by label
    for kind in ("prune", "export", "quantize"):
        assert f"after {kind}" in (tmp_path / "out/report.svg").read_text()
    assert "report.svg" in Bundle.load(tmp_path / "out").manifest.files
    assert all(row.speed for row in report.step_rows if row.measurement and row.kind != "original")


@pytest.mark.parametrize(("measure", "examples"), [("quick", 200), ("full", 260), ("none", 0)])
def test_how_much_is_measured_after_a_step_is_bounded(
    tagger: Path, tmp_path: Path, measure: str, examples: int
) -> None:
    from tests.tiny import write_conll

    data = write_conll(tmp_path / "data", dev=260)
    report = run(tagger, tmp_path / "out", ["prune"], data={"path": str(data)}, measure=measure)
    assert {row.num_examples for row in report.step_rows if row.kind == "prune"} == {examples}
    assert all((row.measurement is None) == (measure == "none") for row in report.step_rows if row.kind == "prune")
    assert report.model_rows[0].quality.support > 0
