"""Parallel files: paired line by line, found by their names, refused by file and line."""

from __future__ import annotations

import gzip

import pytest

from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.data.splits import find_files
from agent.errors import ConfigError, DataError
from agent.tasks import SequenceToSequence, TextClassification

EN, DE = "a dog\nhello\ntwo men\n", "ein Hund\nhallo\nzwei Leute\n"


def put(directory, **files):
    """Files by their names with `_` for the dot."""
    for name, content in files.items():
        (directory / name.replace("_", ".")).write_text(content, encoding="utf-8")
    return DataConfig(path=str(directory), languages=("en", "de"))


def three(directory, **more):
    return put(directory, train_en=EN, train_de=DE, dev_en=EN, dev_de=DE, test_en=EN, test_de=DE, **more)


def test_lines_are_pairs_in_either_direction(tmp_path):
    config = three(tmp_path)
    splits = load_splits(config, SequenceToSequence())
    assert [(example.text, example.target) for example in splits.dev] == list(
        zip(EN.split("\n")[:3], DE.split("\n")[:3], strict=True)
    )
    assert splits.train[1].where == f"{tmp_path}/train.en:2"
    back = load_splits(config.model_copy(update={"languages": ("de", "en")}), SequenceToSequence())
    assert (back.train[0].text, back.train[0].target) == ("ein Hund", "a dog")
    with pytest.raises(DataError, match=r"train.en:1: parallel files \(en to de\).*the task is text_classification"):
        load_splits(config, TextClassification())


def test_packed_files_are_read_beside_others(tmp_path):
    config = three(tmp_path)
    (tmp_path / "train.de").unlink()
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(DE.encode()))
    assert [example.target for example in load_splits(config, SequenceToSequence()).train] == DE.split("\n")[:3]


def test_pairs_with_a_blank_side_are_left_out_and_counted(tmp_path):
    config = three(tmp_path)
    put(tmp_path, train_en="a\n\nc\nd\n", train_de="e\nf\n \nh\n")
    splits = load_splits(config, SequenceToSequence())
    assert [(example.text, example.target) for example in splits.train] == [("a", "e"), ("d", "h")]
    assert "train: left out: 2 pairs with a blank line" in splits.notes


@pytest.mark.parametrize(("longer", "line"), [("en", 3), ("de", 3)])
def test_files_of_different_lengths_are_refused_by_the_first_line_too_many(tmp_path, longer, line):
    config = three(tmp_path)
    other = {"en": "de", "de": "en"}[longer]
    (tmp_path / f"train.{other}").write_text("a\nb\n")
    with pytest.raises(
        DataError, match=rf"train.{longer}:{line}: train.en and train.de have different.*Allowed: .*Remedy: "
    ):
        load_splits(config, SequenceToSequence())


def test_of_several_test_sets_one_has_to_be_named(tmp_path):
    config = put(tmp_path, train_en=EN, train_de=DE, val_en=EN, val_de=DE, test2016_en=EN, test2016_de=DE)
    assert {name: [file.name for file in files] for name, files in find_files(config).items()} == {
        "train": ["train.en"], "dev": ["val.en"], "test": ["test2016.en"],
    }  # fmt: skip
    put(tmp_path, test2017_en=EN, test2017_de=DE)
    with pytest.raises(DataError, match=r"test2016.en and test2017.en for test.*Allowed: .*data.test_name=test2016"):
        find_files(config)
    named = config.model_copy(update={"test_name": "test2017"})
    assert [file.name for file in find_files(named)["test"]] == ["test2017.en"]
    with pytest.raises(DataError, match=r"data.test_name='test2018'.*Allowed: .*test2017.*Remedy: "):
        find_files(config.model_copy(update={"test_name": "test2018"}))
    put(tmp_path, test_en=EN, test_de=DE, trainer_en=EN)
    assert [file.name for file in find_files(config)["test"]] == ["test.en"]


def test_what_is_no_pair_of_files_is_refused_by_name(tmp_path):
    config = three(tmp_path)
    with pytest.raises(
        DataError, match=r"no parallel files of data.languages=\[en, fr\]|has no file beside it.*train.fr"
    ):
        load_splits(config.model_copy(update={"languages": ("en", "fr")}), SequenceToSequence())
    with pytest.raises(
        DataError, match=r"no parallel files of data.languages=\[fr, en\].*Allowed: train.fr with train.en"
    ):
        find_files(config.model_copy(update={"languages": ("fr", "en")}))
    with pytest.raises(DataError, match=r"Remedy: .*data.languages=\[en,de\]"):
        find_files(config.model_copy(update={"languages": None}))
    with pytest.raises(DataError, match=r"data.languages=\[en, de\] is for parallel files, and data.path='demo'"):
        find_files(DataConfig(languages=("en", "de")))


@pytest.mark.parametrize(
    "wrong",
    [{"languages": ["en", "en"]}, {"languages": ["en", "../de"]}, {"languages": ["en"]}, {"test_name": "test2016"}],
)
def test_languages_are_two_suffixes(wrong):
    with pytest.raises(ConfigError, match="languages"):
        from_mapping(DataConfig, wrong)
