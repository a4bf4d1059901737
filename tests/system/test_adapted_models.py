"""Masked language models in this process: trained, resumed, compressed, served, and the base model of another task."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.encoding import IGNORED
from agent.errors import CheckpointError, ConfigError
from agent.evaluation import predict
from agent.tasks import MaskedLanguageModelling
from compression.encoder.torch_model import load_model, torch_forward
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.compression.pipeline.test_pipeline import run
from tests.local_ray import commands_join
from tests.serving.conftest import listening
from tests.tiny import WRITERS, make_model, make_tokenizer
from tests.training.runs import settings, train_by_ranks, train_here
from training.data.ingest import IngestConfig, encode_splits
from training.data.masked_windows import MaskedWindows
from training.loop.checkpoint_manager import CheckpointManager

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]
TEXTS = ["anna went to [MASK] .", "in lima , [MASK] hired [MASK] ."]


def config(place, name, **changes):
    given = {
        "task": {"kind": "masked_language_modelling"}, "data": {"path": str(place / "text")}, "output": str(place / name), "epochs": 12,
        "early_stopping": {"patience": None},
    }  # fmt: skip
    return settings(place, name, **given | changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("masked")
    make_model(place / "model")
    WRITERS["masked_language_modelling"](place / "text", train=240)
    WRITERS["token_classification"](place / "ner", train=40)
    return place


@pytest.fixture(scope="module")
def trained(place):
    return train_here(config(place, "adapted"))


def test_it_learns_words_and_its_bundle_gives_what_its_reports_say(trained):
    bundle, outcome = Bundle.load(trained.bundle.path), trained.outcome
    assert outcome.before.value < 0.1
    assert outcome.after.value > 0.4  # names are drawn by lot: what is left are the other words
    assert outcome.after.metrics["inverse_perplexity"] > 5 * outcome.before.metrics["inverse_perplexity"]
    assert "pseudo-perplexity" in (bundle.path / "report.md").read_text()
    written = json.loads((bundle.path / "config.json").read_text())
    assert written["architectures"] == ["BertForMaskedLM"]
    assert len(written.get("id2label", {})) <= 2  # not the vocabulary
    splits = load_splits(DataConfig.model_validate(bundle.manifest.lineage.config["data"]), bundle.task)
    for evaluation in bundle.manifest.evaluations:
        examples = getattr(splits, evaluation.split)
        found = predict(bundle.task, bundle.encoder, examples, torch_forward(load_model(bundle)))
        assert bundle.task.score(examples, found).metrics == pytest.approx(evaluation.report.metrics, abs=1e-3)


@pytest.fixture(scope="module")
def whole(place):
    return train_here(config(place, "whole", epochs=3)).outcome


@pytest.mark.faults  # of groups that Ray starts: test_training_run.py, test_two_nodes.py
def test_two_workers_at_zero_stage_2_learn_what_one_learns(place, whole):
    changes = {"num_workers": 2, "engine": {"zero_stage": 2}, "batch": {"micro_tokens": 64}}
    with commands_join():
        both = train_by_ranks(config(place, "two", epochs=3, **changes))
    np.testing.assert_allclose(*([row["loss"] for row in one.history] for one in (both, whole)), rtol=1e-3)


def test_a_run_that_ends_in_the_middle_goes_on_by_the_same_command(place, whole, monkeypatch):
    save = CheckpointManager.save

    def last_save(manager, state, observers):
        save(manager, state, observers)
        if state.epoch == 1:
            manager.wait()
            raise CheckpointError("the storage is gone")

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", last_save)
        with pytest.raises(CheckpointError, match="the storage is gone"):
            train_here(config(place, "cut", epochs=3))
    resumed = train_here(config(place, "cut", epochs=3)).outcome
    np.testing.assert_allclose(*([row["loss"] for row in one.history] for one in (resumed, whole)), rtol=1e-6)
    assert resumed.after.metrics == pytest.approx(whole.after.metrics, rel=1e-3)


def test_the_bundle_is_a_base_model_with_a_new_head(place, trained):
    tagger = train_here(settings(place, "tagger", model={"name": str(trained.bundle.path)}, epochs=1)).bundle
    assert json.loads((tagger.path / "config.json").read_text())["architectures"] == ["BertForTokenClassification"]
    assert tagger.manifest.lineage.base_model == str(trained.bundle.path)
    frozen = train_here(
        settings(place, "head", model={"name": str(trained.bundle.path), "trainable": "head_only"}, epochs=1)
    ).bundle
    name = "encoder.layer.0.attention.self.query.weight"
    ours, theirs = (
        dict(load_model(Bundle.load(one.path)).base_model.named_parameters())[name] for one in (frozen, trained.bundle)
    )
    assert (ours == theirs).all()


def test_pre_training_from_nothing_needs_a_configuration_and_a_tokenizer(place, trained):
    (place / "bare").mkdir()
    for file in (place / "model").iterdir():
        if file.suffix != ".safetensors":
            (place / "bare" / file.name).write_bytes(file.read_bytes())
    model = {"name": str(place / "bare"), "init": "random"}
    bundle, outcome = (result := train_here(config(place, "new", model=model, epochs=4))).bundle, result.outcome
    assert outcome.after.metrics["inverse_perplexity"] > 2 * outcome.before.metrics["inverse_perplexity"]
    assert load_model(bundle).config.num_hidden_layers == load_model(trained.bundle).config.num_hidden_layers


@pytest.fixture(scope="module")
def small(trained, place):
    report = run(
        trained.bundle.path,
        place / "small",
        ["prune", {"kind": "export", "exporter": "torchscript"}, {"kind": "quantize"}],
    )
    return Bundle.load(place / "small"), report


def test_the_gate_measures_int8_graphs_that_open_though_embeddings_are_tied(small):
    bundle, report = small
    assert [variant.precision for variant in bundle.manifest.onnx] == ["fp32", "int8"]
    assert all("asked" in variant.inputs for variant in bundle.manifest.onnx)
    assert report.verdict.kept > 0.9
    assert report.verdict.score_name == "accuracy"
    page = (bundle.path / "report.md").read_text()
    assert "| accuracy |" in page
    assert "F1" not in page


@pytest.mark.parametrize("step", [{"kind": "distill"}, {"kind": "vocabulary"}, {"kind": "prune", "recovery_epochs": 1}, {"kind": "low_rank"}])  # fmt: skip
def test_steps_that_cannot_be_taken_are_refused_by_name(trained, tmp_path, step):
    with pytest.raises(ConfigError, match=f"{step['kind']}.*(vocabulary|taught|outputs)"):
        run(trained.bundle.path, tmp_path / "x", [step, {"kind": "export", "exporter": "torchscript"}])


def test_a_teacher_is_refused(place, trained):
    with pytest.raises(ConfigError, match="without a teacher"):
        train_here(config(place, "student", teacher={"bundle": str(trained.bundle.path)}))


def test_served_answers_are_those_of_the_engine(small):
    bundle, _ = small
    with listening(Predictor(Engine(bundle))) as url:
        served = httpx.post(url, json={"inputs": TEXTS}, timeout=20).json()
    answers = Engine(bundle).predict(TEXTS)
    assert served == bundle.task.envelope(answers, single=False, parameters=bundle.task.parameters())
    assert {item["token_str"] for item in answers[0]} & {"oslo", "lima", "pune", "graz"}


def test_batches_hide_other_words_in_each_epoch_the_same_for_any_cut(place):
    from agent.encoding import Encoder

    encoder, task = Encoder(make_tokenizer(), max_tokens=16, stride=4), MaskedLanguageModelling()
    data = encode_splits(load_splits(DataConfig(path=str(place / "text")), task), encoder, IngestConfig())
    windows = MaskedWindows(data.train, data.task.masking(encoder), seed=0)
    rows = np.arange(40, dtype=np.int64)
    batch, targets = windows.collate(rows, 0)
    parts = [windows.collate(part, 0) for part in np.array_split(rows, 3)]
    assert np.concatenate([wanted for _, wanted in parts]).tolist() == targets.tolist()
    assert len(targets) == batch.asked.sum() == windows.count_labelled(rows)
    plain, words = data.train.collate(rows, 0)
    hidden = batch.asked == 1
    assert (plain.input_ids[hidden] == targets).all()
    assert (words[hidden] != IGNORED).all()
    later, _ = windows.at_epoch(1).collate(rows, 0)
    assert (later.asked != batch.asked).any()
    empty, none = windows.collate(rows[:0], 0)
    assert (empty.input_ids.shape, none.shape, int(empty.asked.sum())) == ((1, 1), (0,), 0)
