"""A model from nothing: its tokenizer says every text, its shape is read by transformers and trained, the same files each time."""

from __future__ import annotations

import pytest

from agent.config.base import from_mapping
from agent.encoding import Encoder
from agent.errors import ConfigError, DataError
from agent.tasks import SequenceToSequence, TextGeneration
from tests.agent.families import ODDITIES
from tests.tiny_writers import write_pairs_to_write
from training.model.model_from_nothing import NewModelConfig, make_model
from training.model.models import ModelConfig, build_model, load_config, load_tokenizer, make_encoder
from training.model.writing_models import check_writer

FAMILIES = {
    "pegasus": SequenceToSequence(),
    "bart": SequenceToSequence(),
    "t5": SequenceToSequence(),
    "gpt2": TextGeneration(),
    "llama": TextGeneration(),
}


def made(root, family, name="model", **changes):
    if not (root / "data").exists():
        write_pairs_to_write(root / "data")
    tree = {
        "output": str(root / name),
        "data": {"path": str(root / "data")},
        "family": family,
        "task": {"kind": FAMILIES[family].kind},
    }
    make_model(from_mapping(NewModelConfig, tree | {"width": 32, "layers": 1, "vocabulary": 300} | changes))
    return root / name


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_trained_and_says_every_text(tmp_path, family):
    import unicodedata

    place, task = made(tmp_path, family), FAMILIES[family]
    config = ModelConfig(name=str(place), init="random", stride=8)
    shape = load_config(str(place))
    check_writer(shape, task, family)
    encoder = make_encoder(load_tokenizer(str(place)), config)
    assert encoder.max_tokens == 512
    assert shape.vocab_size == encoder.vocabulary.size
    assert build_model(config, task).num_parameters() > 10_000
    for text in (text for text in ODDITIES if text.strip() and not text.startswith(("<", " "))):
        example = task.read_record({"text": text, "target": text}, "f:1")
        (document,) = task.encode(encoder, [example])
        (targets,) = task.targets(example, document)
        said = encoder.tokenizer.decode(targets[targets != -100].tolist(), skip_special_tokens=True)
        assert said == unicodedata.normalize("NFC", text)


def test_the_same_data_makes_the_same_files(tmp_path):
    one, other = made(tmp_path, "pegasus"), made(tmp_path, "pegasus", "other")
    files = sorted(file.name for file in one.iterdir())
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_a_word_is_one_sub_word_wherever_it_stands_and_markers_are_tokens(tmp_path):
    reader = Encoder(load_tokenizer(str(made(tmp_path, "pegasus"))).backend_tokenizer, max_tokens=64, stride=2)
    (document,) = reader.encode_texts(["anna met anna"])
    assert document.token_ids[0] == document.token_ids[2]
    talker = load_tokenizer(str(made(tmp_path, "gpt2", "talker")))
    assert len(talker("<|user|>\n")["input_ids"]) == 2


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    write_pairs_to_write(tmp_path / "data")
    for changes, message in (
        ({"family": "gpt2"}, "family=gpt2 is for task.kind=text_generation"),
        ({"task": {"kind": "text_classification"}}, "family=pegasus is for task.kind=sequence_to_sequence"),
        ({"heads": 5}, "width=192 is no multiple"),
        ({"vocabulary": 100}, "vocabulary"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_mapping(NewModelConfig, changes)
    with pytest.raises(DataError, match="does not exist"):
        make_model(
            from_mapping(NewModelConfig, {"output": str(tmp_path / "new"), "data": {"path": str(tmp_path / "none")}})
        )
    (tmp_path / "new").mkdir()
    with pytest.raises(ConfigError, match=r"exists.*Allowed: a new directory.*Remedy: "):
        make_model(
            from_mapping(NewModelConfig, {"output": str(tmp_path / "new"), "data": {"path": str(tmp_path / "data")}})
        )
    assert list((tmp_path / "new").iterdir()) == []
