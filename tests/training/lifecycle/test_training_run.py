"""Real runs: DeepSpeed and gloo on tiny models, with Ray Train's workers where there are several."""

from __future__ import annotations

import numpy as np
import pytest

from agent.bundle import Bundle
from agent.errors import BundleError, ClusterError, DataError
from agent.evaluation import predict
from tests.training.runs import settings, train_here
from training.lifecycle.job import train

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]


def torch_forward(bundle, architecture):
    import torch
    import transformers

    model = getattr(transformers, architecture).from_pretrained(bundle.path).eval()

    def forward(batch):
        with torch.inference_mode():
            return model(
                input_ids=torch.from_numpy(batch.input_ids), attention_mask=torch.from_numpy(batch.attention_mask)
            ).logits.numpy()

    return forward


def test_a_run_learns_and_its_bundle_is_a_plain_hugging_face_directory(reference):
    outcome, bundle = reference.outcome, reference.bundle
    assert outcome.before.value < 0.3
    assert outcome.after.value > 0.9
    assert [row["loss"] for row in outcome.history] == sorted((row["loss"] for row in outcome.history), reverse=True)
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(bundle.path)
    assert tuple(model.config.id2label.values()) == bundle.task.outputs
    assert AutoTokenizer.from_pretrained(bundle.path).is_fast


def test_the_bundle_predicts_what_its_report_says(reference, places):
    from agent.data import DataConfig, load_splits

    bundle = Bundle.load(reference.bundle.path)
    test = load_splits(DataConfig(path=str(places / "ner")), bundle.task).test
    tags = predict(bundle.task, bundle.encoder, test, torch_forward(bundle, "AutoModelForTokenClassification"))
    stored = {evaluation.split: evaluation.report for evaluation in bundle.manifest.evaluations}
    assert bundle.task.score(test, tags).metrics == stored["test"].metrics


def test_hugging_faces_pipeline_agrees_with_the_bundle(reference):
    from transformers import pipeline

    from agent.evaluation import run_documents
    from tests.tiny import sentences

    bundle = reference.bundle
    texts = [" ".join(words) for words, _ in sentences(200, seed=77)]
    theirs = pipeline("token-classification", model=str(bundle.path), aggregation_strategy="first")(texts)
    documents = bundle.encoder.encode_texts(texts)
    outputs = run_documents(
        documents, torch_forward(bundle, "AutoModelForTokenClassification"), pad_id=bundle.encoder.pad_id
    )
    for text, document, logits, entities in zip(texts, documents, outputs, theirs, strict=True):
        ours = bundle.task.answer(text, document, logits, bundle.task.parameters())
        assert [(found["entity_group"], found["start"], found["end"]) for found in ours] == [
            (found["entity_group"], found["start"], found["end"]) for found in entities
        ]
        np.testing.assert_allclose(
            [found["score"] for found in ours], [found["score"] for found in entities], atol=1e-4
        )


def test_the_loss_curve_does_not_depend_on_workers_micro_batches_or_zero_stage(places, reference):
    """By Ray Train's workers at stage 2; more workers, stage 3 and going over to others: test_resharding.py."""
    engine = {"zero_stage": 2, "offload_optimizer": True}
    config = settings(places, "workers", epochs=6, num_workers=2, engine=engine, batch={"micro_tokens": 32})
    outcome = train(config).outcome
    ours, theirs = ([row["loss"] for row in result.history] for result in (outcome, reference.outcome))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert outcome.after.value == pytest.approx(reference.outcome.after.value, abs=0.02)


def test_bf16_keeps_fp32_weights(places):
    result = train_here(settings(places, "bf16", epochs=6, engine={"precision": "bf16", "zero_stage": 1}))
    assert result.outcome.after.value > 0.9
    assert "bf16" in result.outcome.description
    from safetensors.numpy import load_file

    assert {tensor.dtype for tensor in load_file(result.bundle.path / "model.safetensors").values()} == {
        np.dtype("float32")
    }


def test_an_output_that_exists_is_not_overwritten_unasked(places, reference):
    digest = Bundle.load(reference.bundle.path).digest
    with pytest.raises(BundleError, match="overwrite=true"):
        train(settings(places, "another", output=str(reference.bundle.path)))
    assert Bundle.load(reference.bundle.path).digest == digest


def test_more_workers_than_cores_are_refused(places):
    with pytest.raises(ClusterError, match="num_workers=64"):
        train(settings(places, "crowd", num_workers=64))


def test_nothing_remains_of_a_run_that_fails(places):
    with pytest.raises(DataError):
        train(settings(places, "failed", task={"kind": "token_classification", "labels": ["PER"]}))
    assert not list(places.glob("*failed*"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {"model": {"lora": {"rank": 4}}, "objective": {"kind": "focal", "class_weights": "sqrt"},
                  "optimizer": {"kind": "adamw", "learning_rate": 0.02}}),
        ("sgd", {"optimizer": {"kind": "sgd", "learning_rate": 0.3}, "schedule": {"kind": "cosine"},
                 "engine": {"zero_stage": 1, "offload_optimizer": True}}),
        ("adafactor", {"optimizer": {"kind": "adafactor", "learning_rate": 0.05, "layer_decay": 0.9}, "task": {"kind": "token_classification", "decoding": "viterbi"},
                       "engine": {"activation_checkpointing": True, "attention": "sdpa"}}),
    ],
)  # fmt: skip
def test_recipes_train_under_deepspeed_and_leave_plain_models(places, name, changes):
    result = train_here(settings(places, name, epochs=6, **changes))
    losses = [row["loss"] for row in result.outcome.history]
    assert losses[-1] < losses[0] / 2
    from transformers import AutoModelForTokenClassification

    _, info = AutoModelForTokenClassification.from_pretrained(result.bundle.path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert "bert_agent" not in (result.bundle.path / "config.json").read_text()


def test_training_ends_when_dev_no_longer_improves(places):
    result = train_here(settings(places, "patient", epochs=40, early_stopping={"patience": 2}))
    scores = [row["dev_score"] for row in result.outcome.history]
    assert scores.index(max(scores)) + 3 == len(scores) < 40
    assert result.outcome.best_epoch == max(n for n, score in enumerate(scores, 1) if score == max(scores))


def test_the_bundle_holds_a_report_that_counts_every_test_sentence(reference):
    report = (reference.bundle.path / "report.md").read_text()
    assert "seqeval, strict" in report
    assert (reference.bundle.path / "learning_curve.svg").read_text().startswith("<?xml")
    assert len(reference.outcome.predictions) == 24
