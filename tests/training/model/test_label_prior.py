"""A new head of labels that are decided one by one starts at their shares; a learned one stays as it is."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tests.training.model.test_attention import batch
from tests.training.runs import settings, train_here
from training.model.label_prior import start_at_shares

COUNTS, WINDOWS = [1, 40, 0], 99


def new_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=100, num_labels=3, **shape)).eval()


def test_a_new_head_gives_every_label_its_share_of_the_windows():
    model = new_model()
    start_at_shares(model, COUNTS, WINDOWS)
    assert torch.sigmoid(model.classifier.bias).tolist() == pytest.approx([0.015, 0.405, 0.005])
    assert torch.sigmoid(model(**batch([5])).logits)[0].tolist() == pytest.approx([0.015, 0.405, 0.005], rel=0.5)
    assert not model.bert.pooler.dense.bias.any()


@pytest.mark.parametrize("windows", [0, WINDOWS])
def test_a_learned_head_stays_and_without_labels_there_is_no_share(windows):
    model = new_model()
    if windows:
        model.classifier.bias.data[1] = 0.25
    before = model.classifier.bias.tolist()
    start_at_shares(model, COUNTS, windows)
    assert model.classifier.bias.tolist() == before


def test_a_run_starts_there(places, tmp_path):
    """At a learning rate of next to nothing it also ends there."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "dev", "test"):
        records = [{"text": f"{name} text {n}", "labels": ["all"] if n % 4 else ["all", "few"]} for n in range(8)]
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    found = train_here(
        settings(
            places, str(tmp_path / "agent"), epochs=1, data={"path": str(data)}, task={"kind": "multi_label_classification"},
            optimizer={"kind": "adamw", "learning_rate": 1e-9},
        )
    )  # fmt: skip
    model = BertForSequenceClassification.from_pretrained(found.bundle.path)
    assert torch.sigmoid(model.classifier.bias).tolist() == pytest.approx([8.5 / 9, 2.5 / 9], abs=1e-5)
