"""Models that write: their loss is Hugging Face's own, families that cannot are refused, dropout has its names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.config.base import from_mapping
from agent.encoding import Encoder
from agent.errors import ConfigError, ModelError
from agent.tasks import SequenceToSequence, TextGeneration
from tests.tiny_writers import make_word_tokenizer, make_writer, writer_config, written_records
from training.config import TrainingConfig
from training.data.packing import pack
from training.data.written_windows import WrittenWindows
from training.loop.train_step import ModelInputs
from training.model.models import ModelConfig, build_model, dropout_options, load_model, load_tokenizer, logits_of
from training.model.writing_models import check_end, check_writer, start_id
from training.objectives import CrossEntropy

DECODERS = ("gpt2", "llama")
NAMES = frozenset({"input_ids", "attention_mask", "asked", "decoder_input_ids"})


def task_of(family):
    return TextGeneration() if family in DECODERS else SequenceToSequence()


@pytest.mark.parametrize("family", ["t5", "bart", "pegasus", *DECODERS])
def test_the_loss_is_that_of_hugging_faces_own_labels(tmp_path, family):
    """Which transformers computes of every token of padded rows, with the labels that its documentation says."""
    import transformers

    decodes, task = family not in DECODERS, task_of(family)
    encoder = Encoder(make_word_tokenizer(ends=decodes), max_tokens=64, stride=8)
    examples = [task.read_record(record, "f:1") for record in written_records(9)]
    batch, targets = WrittenWindows(pack(task, encoder, examples), decodes).collate(np.arange(9), 0)
    directory = make_writer(tmp_path, family)
    loaded = load_model(ModelConfig(name=str(directory)), task)
    assert not loaded.is_new  # a finished writer, as distill_texts trains on
    ours = loaded.model.eval()
    own = getattr(transformers, task.architecture).from_pretrained(directory).eval()
    with torch.inference_mode():
        inputs = ModelInputs(NAMES, torch.device("cpu"), packed=False, start_id=start_id(own.config)).to_host(batch)
        logits = logits_of(ours(**inputs), inputs)
        loss = CrossEntropy().choice_loss(None)(logits, torch.from_numpy(targets)) / len(targets)
        said = batch.decoder_ids if decodes else batch.input_ids
        wanted = np.full_like(said, -100)
        if decodes:
            wanted[batch.asked == 1] = said[batch.asked == 1]
        else:
            wanted[:, 1:][batch.asked[:, :-1] == 1] = said[:, 1:][batch.asked[:, :-1] == 1]
        ids, mask = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.attention_mask)
        theirs = own(input_ids=ids, attention_mask=mask, labels=torch.from_numpy(wanted)).loss
    assert logits.shape == (len(targets), own.config.vocab_size)
    assert float(loss) == pytest.approx(float(theirs), abs=1e-5)


def test_no_keys_and_values_are_kept_in_training_and_the_configuration_still_keeps_them(tmp_path):
    model = build_model(ModelConfig(name=str(make_writer(tmp_path, "gpt2"))), TextGeneration())
    assert model(input_ids=torch.ones(1, 3, dtype=torch.long)).past_key_values is None
    assert model.config.use_cache


@pytest.mark.parametrize(
    ("config", "task", "named"),
    [
        ("bert", TextGeneration(), "bert model, and the task is text_generation"),  # it would see what it is to say
        ("bert", SequenceToSequence(), "bert model, and the task is sequence_to_sequence"),
        ("t5", TextGeneration(), "t5 model, and the task is text_generation"),
        ("bart", TextGeneration(), "bart model, and the task is text_generation"),
        ("gpt2", SequenceToSequence(), "gpt2 model, and the task is sequence_to_sequence"),
        ("mbart", SequenceToSequence(), "mbart model, whose tokenizer marks the language"),
        ("startless", SequenceToSequence(), "decoder starts with"),
    ],
)
def test_a_model_that_cannot_write_for_the_task_is_refused_by_name(config, task, named):
    import transformers

    if config in ("bert", "mbart"):
        found = transformers.AutoConfig.for_model(config)
    elif config == "startless":
        found = writer_config("t5", decoder_start_token_id=None)
    else:
        found = writer_config(config)
    with pytest.raises(ModelError, match=rf"model.name='it'.*{named}.*Allowed: .*Remedy: "):
        check_writer(found, task, "it")


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
def test_dropout_has_the_names_of_the_family(tmp_path, family):
    config = ModelConfig(name=str(make_writer(tmp_path, family)), dropout=0.3, init="random")
    model = build_model(config, task_of(family)).train()
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    rates |= {
        float(getattr(module, "dropout", 0.3))
        for module in model.modules()
        if isinstance(getattr(module, "dropout", None), float)
    }
    assert rates <= {0.3, 0.0}
    assert 0.3 in rates
    with pytest.raises(ModelError, match=r"model.dropout=0.3.*Remedy"):
        dropout_options(type("Bare", (), {"model_type": "bare"})(), 0.3)


@pytest.mark.parametrize(
    ("said", "named"), [({"eos_token_id": 0}, "eos_token_id=0"), ({"eos_token_id": None}, "eos_token_id=None")]
)
def test_a_model_that_would_not_stop_where_texts_end_is_refused(tmp_path, said, named):
    place = make_writer(tmp_path, "bart")
    tokenizer = load_tokenizer(str(place))
    check_end(writer_config("bart"), tokenizer, "it")
    check_end(writer_config("bart", eos_token_id=[5, 1]), tokenizer, "it")
    with pytest.raises(ModelError, match=rf"ends texts with </s> \(1\).*{named} .*Allowed: .*Remedy: "):
        check_end(writer_config("bart", **said), tokenizer, "it")
    tokenizer.eos_token = "<pad>"
    with pytest.raises(ModelError, match=r"eos_token=<pad> of the tokenizer"):
        check_end(writer_config("bart"), tokenizer, "it")


@pytest.mark.parametrize("kind", ["sequence_to_sequence", "text_generation"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("model", {"trainable": 2}), ("model", {"trainable": "head_only"}), ("model", {"lora": {"rank": 4}}), ("model", {"keep_zeros": True}),
     ("optimizer", {"kind": "adamw", "layer_decay": 0.9}), ("teacher", {"bundle": "agent"})],
)  # fmt: skip
def test_what_is_made_for_encoders_is_refused_before_anything_starts(kind, key, value):
    named = key if key == "teacher" else f"{key}.{list(value)[-1]}"
    with pytest.raises(
        ConfigError, match=rf"{named} is for encoders, and the model of task.kind={kind} is trained whole"
    ):
        from_mapping(TrainingConfig, {"task": {"kind": kind}, key: value})
    from_mapping(TrainingConfig, {key: value})
