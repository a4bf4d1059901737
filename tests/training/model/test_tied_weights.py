"""A masked-language model is written with its tied matrix once, and loads as it was, for its own task and for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForTokenClassification,
    BertConfig,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from training.engine.deepspeed_engine import copy_weights
from training.engine.optimizer_state import OptimizerState
from training.state.checkpoint import Checkpoint
from training.state.run_state import RunState

SIZES = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "distilbert": DistilBertConfig(vocab_size=90, dim=16, n_layers=1, n_heads=2, hidden_dim=32),
}
IDS = torch.arange(5, 45).reshape(4, 10)


def written(config: PretrainedConfig, directory: Path) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A random model, and the weights of it that a worker gathers: copies, which went through a checkpoint."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config).eval()
    Checkpoint(copy_weights(model), OptimizerState({}, {}), RunState(), []).write(directory)
    weights = Checkpoint.read(directory).weights
    model.save_pretrained(directory, state_dict=dict(weights))  # it takes out what is tied
    return model, weights


def stored(directory: Path) -> dict[str, torch.Tensor]:
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_matrix_is_stored_once_and_loads_as_it_was(family: str, tmp_path: Path) -> None:
    model, weights = written(FAMILIES[family], tmp_path)
    found = stored(tmp_path)
    table = model.get_input_embeddings().weight
    with safe_open(tmp_path / "weights.safetensors", "pt") as checkpoint:
        assert set(checkpoint.keys()) == {name for name, _ in model.named_parameters()}  # which names a shared one once
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(tensor.shape == table.shape and bool(tensor.eq(table).all()) for tensor in found.values()) == 1
    assert set(weights) - set(found) == set(model.all_tied_weights_keys) & set(weights)
    loaded, told = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"]
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)
    tagger = AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=3)
    assert torch.equal(tagger.get_input_embeddings().weight, table)


def test_matrices_that_are_not_tied_are_both_stored(tmp_path: Path) -> None:
    model, weights = written(BertConfig(**SIZES, tie_word_embeddings=False), tmp_path)
    assert set(stored(tmp_path)) >= {
        name for name in weights if name.endswith(("decoder.weight", "word_embeddings.weight"))
    }
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
