"""Optimizers over a tiny BERT: who gets which rate, and that each of them goes downhill."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agent.errors import ModelError
from agent.tasks import TextClassification, TokenClassification
from tests.tiny import make_model
from training.engine.lr_schedule import Schedule
from training.model.layer_depth import depths
from training.model.models import ModelConfig, build_model
from training.optimizers import SGD, Adafactor, AdamW, Optimizer

KINDS = get_args(get_args(Optimizer)[0])
every_optimizer = pytest.mark.parametrize("kind", KINDS, ids=[kind.model_fields["kind"].default for kind in KINDS])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("optimizers") / "model", layers=3)


@pytest.fixture
def model(directory):
    torch.manual_seed(0)
    return build_model(ModelConfig(name=str(directory), dropout=0.0), TokenClassification(labels=("LOC", "PER")))


def settings_of(optimizer, model):
    """(rate, decay) of every parameter by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_the_union_is_the_registry():
    assert set(KINDS) == {AdamW, SGD, Adafactor}
    for kind in KINDS:
        assert TypeAdapter(Optimizer).validate_python({"kind": kind.model_fields["kind"].default}) == kind()
    with pytest.raises(ValidationError, match="lion"):
        TypeAdapter(Optimizer).validate_python({"kind": "lion"})
    assert [kind.shardable for kind in (AdamW, SGD, Adafactor)] == [True, True, False]


def with_rate(kind, **keys):
    """The optimizer at its own rate; AdamW's depends on the model."""
    return kind(**({"learning_rate": 2e-4} if kind is AdamW else {}), **keys)


@every_optimizer
def test_every_optimizer_lowers_a_loss(kind, model):
    ids = torch.arange(5, 45).reshape(4, 10)
    targets = (ids % 5).reshape(-1)
    optimizer = with_rate(kind).build(model)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits.reshape(-1, 5), targets)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.97 * losses[0]


@every_optimizer
def test_every_trainable_parameter_is_in_one_group_and_only_matrices_decay(kind, model):
    model.bert.embeddings.requires_grad_(False)
    optimizer = with_rate(kind, weight_decay=0.3).build(model)
    found = settings_of(optimizer, model)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(found) == set(trainable)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trainable)
    for name, (rate, decay) in found.items():
        assert rate == with_rate(kind).learning_rate
        assert decay == (0.3 if trainable[name].ndim > 1 else 0.0), name
    assert len(optimizer.param_groups) == 2


@every_optimizer
def test_layer_decay_lowers_the_rate_from_the_head_down_to_the_embeddings(kind, model):
    optimizer = kind(learning_rate=0.01, layer_decay=0.5, weight_decay=0.1).build(model)
    assert optimizer.param_groups[0]["lr"] == 0.01, "the first group is what a run reports"
    steps = {"classifier.": 0, "bert.encoder.layer.2.": 1, "bert.encoder.layer.1.": 2, "bert.encoder.layer.0.": 3, "bert.embeddings.": 4}  # fmt: skip
    for name, (rate, _) in settings_of(optimizer, model).items():
        (below,) = [number for start, number in steps.items() if name.startswith(start)]
        assert rate == pytest.approx(0.01 * 0.5**below), name


def test_layer_decay_and_schedule_multiply(model):
    optimizer, schedule = AdamW(learning_rate=2e-4, layer_decay=0.5).build(model), Schedule(warmup_fraction=0.5)
    before = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.rate_at(step, 8))
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2 for rate in before])


def random_models():
    """Tiny models of other families, as (name, model, number of layers)."""
    import transformers as hf

    common = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 8}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    deberta = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    configs = [
        hf.RobertaConfig(vocab_size=20, **common),
        hf.ElectraConfig(vocab_size=20, embedding_size=4, **common),
        hf.DebertaV2Config(vocab_size=20, **common, **deberta),
        hf.ModernBertConfig(vocab_size=20, **common, **ids),
        hf.DistilBertConfig(vocab_size=20, dim=8, hidden_dim=8, n_layers=2, n_heads=2),
    ]
    return [pytest.param(config, id=config.model_type) for config in configs]


@pytest.mark.parametrize("config", random_models())
@pytest.mark.parametrize("head", ["AutoModelForTokenClassification", "AutoModelForSequenceClassification"])
def test_depth_is_read_from_the_names_of_any_family(config, head):
    import transformers

    model = getattr(transformers, head).from_config(config)
    of = depths(model)
    assert list(of) == [name for name, _ in model.named_parameters()]
    for name, depth in of.items():
        part = next((number for number in (0, 1) if f".{number}." in name and "layer" in name), None)
        if part is not None:
            assert depth == part + 1, name
        elif name.startswith(("classifier", "pre_classifier", "head", "pooler")):
            assert depth == 3, name
        else:
            assert depth == (2 if "final_norm" in name else 0), name


def test_the_pooler_of_bert_counts_to_the_head(directory):
    of = depths(build_model(ModelConfig(name=str(directory)), TextClassification(labels=("a", "b"))))
    assert {of["bert.pooler.dense.weight"], of["classifier.weight"]} == {4}


def test_layer_decay_without_numbered_layers_is_refused():
    class Flat(torch.nn.Module):
        base_model_prefix = "base"

        def __init__(self):
            super().__init__()
            self.base, self.classifier = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)

    with_rate(AdamW).build(Flat())
    with pytest.raises(ModelError, match=r"layer_decay=0\.9, but no parameter of Flat"):
        with_rate(AdamW, layer_decay=0.9).build(Flat())


def test_nesterov_without_momentum_is_refused():
    assert SGD(nesterov=True).make([{"params": [torch.zeros(1)], "lr": 1.0}]).param_groups[0]["nesterov"]
    with pytest.raises(ValidationError, match="nesterov needs a momentum"):
        SGD(nesterov=True, momentum=0.0)


KEPT = [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0, 1.0, *[(100 - step) / 94 for step in range(7, 100)]]


def test_the_linear_schedule_keeps_its_values():
    assert [Schedule().rate_at(step, 100) for step in range(100)] == pytest.approx(KEPT)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@given(num_steps=st.integers(1, 200), warmup=st.floats(0, 0.99))
def test_every_schedule_rises_to_the_peak_and_never_rises_after_it(kind, num_steps, warmup):
    schedule = Schedule(kind=kind, warmup_fraction=warmup)
    rates = [schedule.rate_at(step, num_steps) for step in range(num_steps + 2)]  # a scheduler asks one step further
    peak = rates.index(max(rates))
    assert max(rates) == 1.0
    assert all(0 < rate <= 1 for rate in rates[:num_steps])
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_cosine_and_constant_end_as_they_should():
    cosine, constant = Schedule(kind="cosine", warmup_fraction=0.0), Schedule(kind="constant", warmup_fraction=0.0)
    assert cosine.rate_at(50, 99) == pytest.approx((1 - math.cos(math.pi * 0.5)) / 2)
    assert cosine.rate_at(99, 99) == 0.0
    assert {constant.rate_at(step, 99) for step in range(99)} == {1.0}
