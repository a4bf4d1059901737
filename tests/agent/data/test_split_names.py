"""Which files are train, dev and test, by the names that people give them."""

import pytest

from agent.data import DataConfig, load_splits
from agent.data.split_files import split_files
from agent.errors import DataError
from agent.tasks import TextClassification, TokenClassification
from tests.agent.data.reading import put

GOOD = "Anna B-PER\nin O\nOslo B-LOC\n\nAcme B-ORG\n"


def found(directory, *names):
    for name in names:
        put(directory, name, GOOD)
    return {
        split: [str(file.relative_to(directory)) for file in files] for split, files in split_files(directory).items()
    }


@pytest.mark.parametrize(
    "names",
    [
        ("train.conll", "dev.conll", "test.conll"),
        ("train.txt", "valid.txt", "test.txt"),
        ("train.tsv", "val.tsv", "test.tsv"),
        ("train.jsonl", "validation.jsonl", "test.jsonl"),
        ("train.bio", "testa.bio", "testb.bio"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("en_ewt-ud-train.iob2", "en_ewt-ud-dev.iob2", "en_ewt-ud-test.iob2"),
        ("NER-de-train.tsv.gz", "NER-de-dev.tsv.gz", "NER-de-test.tsv.gz"),
        ("train/a.conll", "dev/a.conll", "test/a.conll"),
        ("training.parquet", "development.parquet", "testing.parquet"),
        ("train.unknown", "dev.unknown", "test.unknown"),
    ],
)
def test_names_that_people_give(tmp_path, names):
    (tmp_path / "README.txt").write_text("x")
    assert found(tmp_path, *names) == {
        split: [name] for split, name in zip(("train", "dev", "test"), names, strict=True)
    }


def test_several_files_of_one_split(tmp_path):
    names = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test/b.jsonl", "test/a.jsonl"]
    assert found(tmp_path, *names) == {"train": names[:2], "test": ["test/a.jsonl", "test/b.jsonl"]}


def test_surer_names_go_before_others(tmp_path):
    names = [
        "train.conll",
        "old-train.conll",
        "train.log",
        "train.docstarts.txt",
        "trainer.conll",
        "train_2.conll",
        "test.conll",
    ]
    assert found(tmp_path, *names) == {"train": ["train.conll"], "test": ["test.conll"]}


@pytest.mark.parametrize(
    "two", [("valid.conll", "dev.conll"), ("a-dev.conll", "b-dev.conll"), ("dev/a.conll", "dev.conll")]
)
def test_two_candidates_for_a_split_are_refused(tmp_path, two):
    with pytest.raises(
        DataError, match=r"holds .*dev.* and .*conll\. Allowed: one file .*Remedy: move the others away"
    ):
        found(tmp_path, "train.conll", *two)


def test_pairs_of_brat_are_one_split_or_folders(tmp_path):
    flat = tmp_path / "flat"
    assert found(flat, "b.txt", "b.ann", "a.txt", "a.ann") == {"train": ["a.ann", "b.ann"]}
    assert found(tmp_path, "train/a.txt", "train/a.ann", "test/b.txt", "test/b.ann") == {
        "train": ["train/a.ann"],
        "test": ["test/b.ann"],
    }


def test_the_parts_of_an_annotation_are_one_split(tmp_path):
    names = ["part-000000.jsonl", "part-000001.jsonl", "manifest.json"]
    assert found(tmp_path, *names) == {"train": names[:2]}


# --- what is odd is said


TAGGING = TokenClassification()


def load(directory, task=TAGGING, **files):
    for split, content in files.items():
        put(directory, f"{split}.conll", content)
    return load_splits(DataConfig(path=str(directory)), task)


def test_a_single_label_and_a_split_without_entities_are_said(tmp_path):
    one = "Anna B-PER\nleft O\n"
    assert load(tmp_path, train=one, dev=one, test="left O\n").notes == (
        "the test split has no entity at all: its scores say nothing",
        "there is one label only, PER",
    )


def test_a_split_of_which_nothing_is_left_says_why(tmp_path):
    for name in ("train", "dev", "test"):
        put(tmp_path, f"{name}.jsonl", [{"text": "Anna", "spans": [], "answer": "reject"}])
    with pytest.raises(DataError, match=r"the train split is empty; train: left out: 1 rejected\."):
        load(tmp_path)


def test_notes_name_their_split(tmp_path):
    bare = "Anna PER\nis O\n"
    assert load(tmp_path, train=GOOD, dev=bare, test=GOOD).notes == (
        "dev: tags are bare labels: neighbours with the same label count as one entity",
    )


def test_data_of_another_task_is_named(tmp_path):
    with pytest.raises(
        DataError,
        match=r"train.conll:1: CoNLL columns, which is data for token_classification, and the task is text_class",
    ):
        load(tmp_path, TextClassification(), train=GOOD, dev=GOOD, test=GOOD)
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.conll").unlink()
        put(tmp_path, f"{name}.jsonl", [{"text": "a", "label": "x"}])
    with pytest.raises(DataError, match=r"Remedy: choose task.kind=text_classification"):
        load(tmp_path)
