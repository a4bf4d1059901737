"""A pruned model is trained and stays pruned: with every optimizer, at every ZeRO stage, with several workers."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.config.base import from_mapping
from agent.errors import ConfigError
from tests.training.model.test_attention import batch, tiny
from tests.training.processes import launch
from tests.training.runs import settings, train_here
from tests.training.state import resharding
from tests.training.state.resharding import prune
from training.engine.thread_parallel import ThreadParallel
from training.model.models import ModelConfig
from training.model.sparsity_mask import keep_zeros
from training.optimizers import SGD, Adafactor, AdamW
from training.state.checkpoint import Checkpoint

INPUTS = batch([9, 7, 3])


@pytest.mark.parametrize(
    "optimizer",
    [AdamW(learning_rate=2e-4, weight_decay=0.1), SGD(learning_rate=0.01), Adafactor()],
    ids=lambda one: one.kind,
)
@pytest.mark.parametrize("threads", [0, 2])
def test_zeros_stay_zero_and_all_else_moves(optimizer, threads):
    model = tiny("bert").train()
    dead = prune({name: parameter.data for name, parameter in model.named_parameters()})
    keep_zeros(model)
    made = optimizer.build(model)
    side_by_side = ThreadParallel(model, None, num_groups=1) if threads else None
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(5):
        made.zero_grad()
        logits = side_by_side.forward([INPUTS])[0][0] if side_by_side else model(**INPUTS).logits
        (logits**2).mean().backward()
        made.step()
    for name, parameter in model.named_parameters():
        if name in dead:
            assert torch.all(parameter[dead[name]] == 0), name
            if dead[name].all():
                continue
        if not name.endswith("key.bias"):  # softmax does not see it
            assert not torch.equal(parameter.detach(), before[name]), name


def test_the_biases_of_a_fresh_head_are_trained():
    model = tiny("bert")
    torch.nn.init.zeros_(model.classifier.bias)
    keep_zeros(model)
    model(**INPUTS).logits.sum().backward()
    assert model.classifier.bias.grad.abs().min() > 0


def test_adapters_cannot_keep_zeros():
    with pytest.raises(ConfigError, match="keep_zeros=true cannot be set with it"):
        from_mapping(ModelConfig, {"lora": {"rank": 2}, "keep_zeros": True})


@pytest.mark.system
@pytest.mark.faults
def test_a_pruned_model_stays_pruned_under_deepspeed_with_two_workers_at_every_zero_stage(tmp_path):
    launch(2, resharding.train_rank, tmp_path, "none", "a", 5, rotation=0, recipe="pruned")
    fresh = resharding.model("pruned").state_dict()
    dead = {name: fresh[name] == 0 for name in fresh if ".layer." in name and "LayerNorm" not in name}
    assert sum(int(zeros.sum()) for zeros in dead.values()) > 1000
    for stage in range(4):
        after = Checkpoint.read(tmp_path / f"a-{stage}").weights
        for name, zeros in dead.items():
            assert torch.all(after[name][zeros] == 0), (stage, name)
            if name.endswith("weight"):
                assert not torch.equal(after[name], fresh[name]), (stage, name)


@pytest.mark.system
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_with_keep_zeros_leaves_a_pruned_agent_pruned_at_every_zero_stage(places, tmp_path, stage):
    pruned = shutil.copytree(places / "model", tmp_path / "pruned")
    weights = load_file(pruned / "model.safetensors")
    dead = prune(weights)
    save_file(weights, pruned / "model.safetensors", metadata={"format": "pt"})
    optimizer = {"kind": "adamw", "learning_rate": 0.005, "weight_decay": 0.1}
    model = {"name": str(pruned), "keep_zeros": True}
    config = settings(
        tmp_path,
        "agent",
        epochs=1,
        data={"path": str(places / "ner")},
        optimizer=optimizer,
        model=model,
        engine={"zero_stage": stage},
    )
    bundle = train_here(config).bundle
    after = load_file(bundle.path / "model.safetensors")
    assert sum(int(zeros.sum()) for zeros in dead.values()) > 1000
    for name, zeros in dead.items():
        found = after[f"bert.{name}"]
        assert torch.all(found[zeros] == 0), name
        if name.endswith("weight"):
            assert not torch.equal(found, weights[name]), name
