"""The step cascade: what it leaves alone, what it writes, how the threshold is chosen, and what it refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.errors import AgentError, ConfigError, ExportError
from agent.evaluation import Cascade, evaluate, lowest_probability, predict
from agent.tasks import KINDS
from compression.distillation.shallow_student import Teaching, lessons_of, shallow_copy, teach
from compression.encoder.torch_model import load_model
from compression.graphs.onnx_graph import graph_forward, open_session
from compression.measurement.cascade_threshold import FirstAnswers, choose_threshold
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.steps.cascade import CascadeStep
from tests.compression.agents import tiny_bundle
from tests.compression.pipeline.test_pipeline import run

EXPORT = {"kind": "export", "exporter": "torchscript"}
CASCADE: dict[str, Any] = {"kind": "cascade", "layers": 1, "epochs": 2, "batch_tokens": 128, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def cascades(tagger: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """An agent compressed with a cascade, of which some texts go on, and without."""
    directory = tmp_path_factory.mktemp("cascades")
    run(tagger, directory / "alone", [EXPORT, "quantize"])
    run(tagger, directory / "both", [EXPORT, "quantize", CASCADE | {"dev_score_kept": 0.9}])
    return Bundle.load(directory / "both"), Bundle.load(directory / "alone")


def forward_of(bundle: Bundle, file: str) -> Any:
    return graph_forward(open_session(bundle.path / file, 1))


def test_the_agents_own_graphs_are_the_same_to_the_last_bit(cascades: tuple[Bundle, Bundle]) -> None:
    both, alone = cascades
    for name in ("model.onnx", "model.int8.onnx"):
        assert both.manifest.files[name] == alone.manifest.files[name]


def test_only_the_graph_for_cpus_has_a_first_pass_in_its_precision(cascades: tuple[Bundle, Bundle]) -> None:
    both, _ = cascades
    exact, small = both.manifest.onnx
    assert exact.first_pass is None
    assert small.first_pass is not None
    assert small.first_pass.file == "first_pass.int8.onnx"
    assert small.first_pass.layers == 1
    assert small.first_pass.pairs_fit
    size = {name: (both.path / name).stat().st_size for name in ("first_pass.int8.onnx", "model.int8.onnx")}
    assert size["first_pass.int8.onnx"] < size["model.int8.onnx"]
    assert not (both.path / "first_pass.onnx").exists()


def test_the_report_scores_the_two_as_one_model(cascades: tuple[Bundle, Bundle]) -> None:
    both, alone = cascades
    small = both.manifest.onnx[-1]
    assert small.first_pass is not None
    threshold, task = small.first_pass.threshold, both.task
    splits = load_splits(DataConfig(path=both.manifest.lineage.config["data"]["path"] or _data(alone)), task)
    pair = Cascade(
        forward_of(both, small.first_pass.file),
        forward_of(both, small.file),
        lambda *said: lowest_probability(task, *said) > threshold,
    )
    (stated,) = (one.report for one in both.manifest.evaluations if one.model == small.file)
    assert evaluate(task, both.encoder, splits.test, pair).metrics == stated.metrics
    report = (both.path / "report.md").read_text()
    assert "ONNX int8, cascade" in report
    assert "ONNX int8 alone (not published)" in report
    assert "of the test texts go on" in report


def _data(bundle: Bundle) -> str:
    """The data of the agent that a bundle was made of."""
    parent = Bundle.load(bundle.manifest.lineage.config["bundle"])
    return str(parent.manifest.lineage.config["data"]["path"])


@pytest.mark.parametrize("kind", ["text_classification", "multi_label_classification"])
def test_other_choices_among_labels_have_cascades_too(kind: str, tmp_path: Path) -> None:
    agent = tiny_bundle(tmp_path / "agent", kind)
    run(agent, tmp_path / "out", [EXPORT, CASCADE | {"dev_score_kept": 0}])
    (graph,) = Bundle.load(tmp_path / "out").manifest.onnx
    assert graph.first_pass is not None
    assert graph.first_pass.file == "first_pass.onnx"
    assert graph.first_pass.threshold == 0  # whatever is lost, nothing goes on


def test_the_first_pass_is_quantized_as_auto_chose_for_the_agent(tagger: Path, tmp_path: Path) -> None:
    auto = {"kind": "quantize", "variant": "auto", "dev_score_kept": 0.5}
    run(tagger, tmp_path / "out", [EXPORT, auto, CASCADE | {"dev_score_kept": 0}])
    small = Bundle.load(tmp_path / "out").manifest.onnx[-1]
    assert small.first_pass is not None
    assert small.first_pass.file == f"first_pass.{small.precision}.onnx"
    kinds = [
        Counter(node.op_type for node in onnx.load(str(tmp_path / "out" / file)).graph.node)
        for file in (small.file, small.first_pass.file)
    ]
    assert ("DynamicQuantizeLinear" in kinds[0]) == ("DynamicQuantizeLinear" in kinds[1])


def test_a_student_learns_what_the_agent_says(tagger: Path, tmp_path: Path) -> None:
    scores = []
    for rate in (1e-9, 3e-3):
        output = tmp_path / f"{rate}"
        run(tagger, output, [EXPORT, CASCADE | {"dev_score_kept": 0, "epochs": 6, "learning_rate": rate}])
        bundle = Bundle.load(output)
        splits = load_splits(DataConfig(path=_data(bundle)), bundle.task)
        forward = forward_of(bundle, "first_pass.onnx")
        scores.append(evaluate(bundle.task, bundle.encoder, splits.test, forward).value)
        assert len(predict(bundle.task, bundle.encoder, splits.test, forward)) == len(splits.test)
    assert scores[0] < scores[1]


def test_a_cascade_that_computes_more_than_the_agent_alone_is_refused(tagger: Path, tmp_path: Path) -> None:
    untaught = CASCADE | {"learning_rate": 1e-9, "dev_score_kept": 1}
    with pytest.raises(ExportError, match=r"of the agent's work.*lower dev_score_kept"):
        run(tagger, tmp_path / "out", [EXPORT, untaught])
    assert not (tmp_path / "out").exists()


def test_a_student_as_deep_as_the_agent_is_refused(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cascade\.layers=2, but the agent has 2\. Allowed: 1 to 1"):
        run(tagger, tmp_path / "out", [EXPORT, CASCADE | {"layers": 2}])


def test_more_layers_to_train_than_the_student_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"trained_layers=3; allowed: 1 to layers=2"):
        from_mapping(CascadeStep, {"kind": "cascade", "trained_layers": 3})


def test_what_is_below_the_trained_layers_stays_the_agents(tagger: Path) -> None:
    bundle = Bundle.load(tagger)
    agent = load_model(bundle)
    student = shallow_copy(agent, 2)
    splits = load_splits(DataConfig(path=bundle.manifest.lineage.config["data"]["path"]), bundle.task)
    lessons = lessons_of(agent, bundle.task, bundle.encoder, splits.train, lambda *_: None)
    teaching = Teaching(1, 1, 1e-3, 256, 0.7, 0, pad_id=bundle.encoder.pad_id, binary=False)
    teach(student, lessons, teaching, lambda *_: None)
    before, after = agent.state_dict(), student.state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith(("bert.encoder.layer.1.", "classifier.")) for name in changed)


def test_it_needs_a_graph(tagger: Path) -> None:
    with pytest.raises(ConfigError, match="step cascade needs a step export before it"):
        from_mapping(CompressionConfig, {"bundle": str(tagger), "output": "b", "steps": ["cascade", "verify"]})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tasks_whose_answers_are_no_choices_among_labels_are_refused_by_name(kind: str) -> None:
    allowed = {
        "token_classification", "text_classification", "text_pair_classification", "multi_label_classification",
    }  # fmt: skip
    task = KINDS[kind].model_construct(kind=kind)
    if kind in allowed:
        CascadeStep().check_task(task)
        return
    with pytest.raises(AgentError, match=kind):
        CascadeStep().check_task(task)


RIGHT = np.array([1, 0, 1, 1, 0, 1, 0, 0, 1, 1])


def right(found: list[Any]) -> float:
    return float(np.mean(np.array(found) == RIGHT))


def test_the_fewest_texts_go_on_that_keep_the_score() -> None:
    wrong = RIGHT.copy()
    wrong[[2, 7]] = 1 - wrong[[2, 7]]  # of which it is less sure than of most
    sure = [0.9, 0.95, 0.4, 0.99, 0.8, 0.97, 0.5, 0.6, 0.91, 0.92]
    first = FirstAnswers(wrong.tolist(), sure, [10] * 9 + [30])
    chosen = choose_threshold(right, first, RIGHT.tolist(), score_kept=1.0)
    assert chosen.value == 0.6
    assert (chosen.score_kept, chosen.texts_on) == (1.0, pytest.approx(0.3))
    assert chosen.tokens_on == pytest.approx(30 / 120)
    assert choose_threshold(right, first, RIGHT.tolist(), score_kept=0.9).value == 0.4
    assert choose_threshold(right, first, RIGHT.tolist(), score_kept=0.0).value == 0.0


def test_texts_of_which_it_is_equally_sure_go_the_same_way() -> None:
    first = FirstAnswers((1 - RIGHT).tolist(), [0.5] * 10, [1] * 10)
    assert choose_threshold(right, first, RIGHT.tolist(), score_kept=1.0).value == 0.5
