"""Partly trained models: what moves, what stays, and that a plain model leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from agent.errors import ModelError
from agent.tasks import TextClassification, TokenClassification
from tests.tiny import make_model
from training.model.adapters import LoraConfig, adapt, merged_weights, unwrap
from training.model.models import ModelConfig, build_model
from training.optimizers import AdamW

TASKS = [TokenClassification(labels=("LOC", "PER")), TextClassification(labels=("a", "b"))]
every_task = pytest.mark.parametrize("task", TASKS, ids=[task.kind for task in TASKS])
IDS = torch.arange(5, 45).reshape(4, 10)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("adapters") / "model", layers=3)


def adapted(directory, task=TASKS[0], **settings):
    torch.manual_seed(0)
    config = ModelConfig(name=str(directory), **settings)
    return adapt(build_model(config, task), trainable=config.trainable, lora=config.lora)


def logits_of(model):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def take_steps(model, count=3):
    """Trains with dropout and random weights of every adapter, so that nothing is zero any more."""
    torch.manual_seed(1)
    optimizer = AdamW(learning_rate=0.01).build(model)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    for _ in range(count):
        model.train()(input_ids=IDS).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def moved(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


def cloned(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_model_that_is_trained_whole_stays_as_it_is(directory):
    config = ModelConfig(name=str(directory))
    model = build_model(config, TASKS[0])
    weights = model.state_dict()
    assert adapt(model, trainable=config.trainable, lora=config.lora) is unwrap(model) is model
    assert merged_weights(model, weights) is weights
    assert all(parameter.requires_grad for parameter in model.parameters())


@every_task
@pytest.mark.parametrize("trainable", ["head_only", 1, 2, 3])
def test_training_moves_the_head_and_the_chosen_top_layers_only(directory, task, trainable):
    model = adapted(directory, task, trainable=trainable)
    before, layers = cloned(model), 0 if trainable == "head_only" else trainable
    take_steps(model)
    starts = ("classifier.", "bert.pooler.", *(f"bert.encoder.layer.{number}." for number in range(3 - layers, 3)))
    changed = moved(model, before)
    assert changed
    assert all(name.startswith(starts) for name in changed)
    assert {start for start in starts if any(name.startswith(start) for name in changed)} == {
        start for start in starts if any(name.startswith(start) for name in before)
    }
    assert unwrap(model) is model


def test_more_layers_than_there_are_are_refused(directory):
    with pytest.raises(ModelError, match=r"trainable=4, but BertForTokenClassification has 3 .* 1 to 3"):
        adapted(directory, trainable=4)


@every_task
def test_lora_trains_adapters_and_head_and_leaves_a_plain_model(directory, task, tmp_path):
    """The merged weights, loaded by transformers as any other model, say what the adapted model says."""
    import transformers

    model = adapted(directory, task, lora=LoraConfig(rank=4, alpha=6.0, dropout=0.1))
    before = cloned(model)
    take_steps(model)
    assert all(".lora_" in name or ".modules_to_save." in name for name in moved(model, before))
    expected, weights = logits_of(model), cloned(model)
    unwrap(model).save_pretrained(tmp_path, state_dict=merged_weights(model, weights))
    loader = getattr(transformers, task.architecture)
    loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(unwrap(model))
    assert {name: list(found) for name, found in report.items() if found} == {}
    assert torch.allclose(logits_of(loaded), expected, atol=1e-5)
    assert "lora" not in json.dumps(json.loads((tmp_path / "config.json").read_text())).lower()


def test_merging_leaves_the_live_model_untouched(directory):
    model = adapted(directory, lora=LoraConfig())
    take_steps(model)
    before, expected = cloned(model), logits_of(model)
    weights = cloned(model)
    merged = merged_weights(model, weights)
    assert set(merged) == set(build_model(ModelConfig(name=str(directory)), TASKS[0]).state_dict())
    assert moved(model, before) == set()
    assert torch.equal(logits_of(model), expected)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_untrained_adapters_change_nothing(directory):
    model = adapted(directory, lora=LoraConfig())
    torch.manual_seed(0)
    fresh = build_model(ModelConfig(name=str(directory)), TASKS[0])
    assert torch.allclose(logits_of(model), logits_of(fresh), atol=1e-6)


def adapted_matrices(model):
    return {name.split(".lora_A")[0].removeprefix("base_model.model.bert.encoder.layer.") for name, _ in model.named_parameters() if ".lora_A." in name}  # fmt: skip


def test_by_default_every_matrix_of_the_layers_has_an_adapter_and_names_choose_among_them(directory):
    parts = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"]  # fmt: skip
    for chosen, wanted in ((parts, ()), (parts[:1] + parts[2:3], ("value", "query")), (parts[3:], ("dense",))):
        model = adapted(directory, TASKS[1], lora=LoraConfig(target_modules=wanted))  # its pooler has a dense, too
        assert adapted_matrices(model) == {f"{number}.{part}" for number in range(3) for part in chosen}


def test_lora_works_on_other_families(directory):
    import transformers

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    common = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2}
    for config in (
        transformers.ModernBertConfig(intermediate_size=8, **common, **ids),
        transformers.DistilBertConfig(vocab_size=50, dim=8, hidden_dim=8, n_layers=2, n_heads=2),
        transformers.RobertaConfig(intermediate_size=8, **common),
        transformers.ElectraConfig(intermediate_size=8, embedding_size=4, **common),  # has a matrix in its embeddings
    ):
        torch.manual_seed(0)
        base = transformers.AutoModelForSequenceClassification.from_config(config)
        model = adapt(base, trainable="all", lora=LoraConfig())
        assert all(".layer" in name for name, _ in model.named_parameters() if ".lora_" in name)
        take_steps(model)
        fresh = type(unwrap(model))(config)
        fresh.load_state_dict(merged_weights(model, cloned(model)))
        assert torch.allclose(logits_of(fresh), logits_of(model), atol=1e-5), config.model_type


def test_layer_decay_sees_through_the_wrapping(directory):
    optimizer = AdamW(learning_rate=1.0, layer_decay=0.5).build(adapted(directory, lora=LoraConfig()))
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.125, 0.25, 0.5, 1.0]


def test_an_unknown_target_module_is_refused_with_those_that_are_there(directory):
    with pytest.raises(ModelError, match=r"no matrix 'q_proj' .* dense, key, query, value"):
        adapted(directory, lora=LoraConfig(target_modules=("query", "q_proj")))


def test_lora_without_peft_says_what_to_install(directory, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # makes its import fail
    with pytest.raises(ModelError, match=r"needs the package peft, which is not installed.*pip install"):
        adapted(directory, lora=LoraConfig())


def test_peft_is_not_imported_unless_lora_is_set(directory):
    code = (
        "import sys; from training.model.models import ModelConfig, build_model; from training.model.adapters import *\n"
        "from agent.tasks import TokenClassification\n"
        f"config = ModelConfig(name={str(directory)!r}, trainable=1)\n"
        "model = adapt(build_model(config, TokenClassification(labels=('A',))), trainable=config.trainable, lora=config.lora)\n"
        "merged_weights(unwrap(model), model.state_dict()); assert 'peft' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
