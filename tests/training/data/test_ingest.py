"""The two ways of reading agree: small files through Ray Data in tiny parts, and through memory."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from agent.data import DataConfig
from agent.data.splits import open_split
from agent.encoding import Encoder
from agent.errors import DataError
from agent.tasks import (
    MaskedLanguageModelling,
    MultiLabelClassification,
    TextClassification,
    TextPairClassification,
    TokenClassification,
)
from tests.tiny import make_tokenizer, sentences, write_classes, write_conll, write_label_sets, write_pairs, write_texts
from training.data import ingest
from training.data.ingest import IngestConfig, open_data, streams
from training.data.parallel_encoding import ParallelEncoding

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(autouse=True)
def tiny_parts(monkeypatch):
    monkeypatch.setattr(ingest, "_PART_BYTES", 700)


@pytest.fixture(scope="module")
def encoder():
    return Encoder(make_tokenizer(), max_tokens=12, stride=3)


@pytest.fixture
def read(tmp_path, encoder):
    def read(path, task=None, mode="stream", cache="cache", **options):
        return open_data(
            DataConfig(path=str(path), **options), task or TokenClassification(),
            ingest=IngestConfig(mode=mode, cache=cache and str(tmp_path / cache)), seed=0, make_encoder=lambda: encoder,
        )  # fmt: skip

    return read


def write_uneven(directory):
    """Files of which the first parts lack some labels, and one part has no entity at all."""
    write_conll(directory, train=1)
    blocks = [f"{word} {'I' if position else 'B'}-{label}\n" for label in ("PER", "LOC") for position, word in enumerate(["anna", "bruno"])]  # fmt: skip
    quiet = "nothing O\nhappened O\n\n" * 60
    (directory / "train.conll").rename(directory / "train-9.conll")
    (directory / "train-1.conll").write_text(
        "-DOCSTART- O\n\n" + ("".join(blocks) + "\n") * 20 + quiet, encoding="utf-8"
    )
    (directory / "train-2.conll").write_bytes(b"\xef\xbb\xbfoslo U-ZZZ\r\n\r\n" * 50 + b"\n" * 2000 + b"lima I-AAA")
    return directory


def equal(one, other):
    for name in ("input_ids", "targets", "bounds", "labelled", "owners", "seconds"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("write", "task"),
    [
        (write_conll, TokenClassification()),
        (write_conll, TokenClassification(labels=("PER", "ORG", "LOC", "NEVER"))),
        (write_classes, TextClassification()),
        (write_classes, TextClassification(labels=("unknown", "known"))),
        (write_label_sets, MultiLabelClassification()),
        (write_pairs, TextPairClassification()),
        (write_label_sets, MultiLabelClassification(labels=("PER", "NEVER", "ORG", "LOC"))),
        (write_uneven, TokenClassification(labels=("ZZZ", "PER", "ORG", "LOC", "AAA"))),
        (write_uneven, TokenClassification()),
        (write_texts, MaskedLanguageModelling()),
    ],
)
def test_streaming_gives_what_memory_gives(tmp_path, read, write, task):
    path = write(tmp_path / "data")
    streamed, whole = read(path, task), read(path, task, mode="memory", cache=None)
    equal(streamed.train, whole.train)
    assert streamed.task == whole.task
    assert (streamed.dev, streamed.test, streamed.num_train) == (whole.dev, whole.test, whole.num_train)
    assert streamed.digest == whole.digest


def test_windows_are_found_again_without_being_encoded(tmp_path, read, monkeypatch):
    path = write_conll(tmp_path / "data")
    first = read(path)
    (tmp_path / "moved").mkdir()
    for file in path.iterdir():
        file.rename(tmp_path / "moved" / file.name)
    monkeypatch.setattr(ingest, "ParallelEncoding", None)
    monkeypatch.setattr(ingest, "_PART_BYTES", 999)
    again = read(tmp_path / "moved")
    equal(again.train, first.train)
    assert again.digest == first.digest


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"max_tokens": 11}, False),
        ({"stride": 2}, False),
        ({"tokenizer": make_tokenizer(["quite another vocabulary"]).to_str()}, False),
        ({"labels": ("LOC", "ORG", "PER")}, False),
    ],
)
def test_whatever_changes_the_windows_changes_where_they_lie(tmp_path, read, encoder, changes, same):
    path = write_conll(tmp_path / "data")
    used = {"max_tokens": 12, "stride": 3, "tokenizer": encoder.tokenizer.to_str(), "labels": ()} | changes
    other = Encoder(Tokenizer.from_str(used["tokenizer"]), max_tokens=used["max_tokens"], stride=used["stride"])
    second = open_data(
        DataConfig(path=str(path)), TokenClassification(labels=used["labels"]),
        ingest=IngestConfig(mode="stream", cache=str(tmp_path / "cache")), seed=0, make_encoder=lambda: other,
    )  # fmt: skip
    assert (read(path).train.directory == second.train.directory) == same


def test_memory_keeps_windows_too_when_told_where(tmp_path, read):
    path = write_conll(tmp_path / "data")
    kept, plain = read(path, mode="memory"), read(path, mode="memory", cache=None)
    equal(kept.train, plain.train)
    assert kept.train.directory.parent == tmp_path / "cache"
    assert read(path, mode="memory", dev_fraction=0.2).train.directory == kept.train.directory


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*['{"tokens": ["a"], "tags": ["O"]}'] * 90, "{"], r"train\.jsonl:91: no JSON"),
        (
            [*['{"tokens": ["a"], "tags": ["O"]}', ""] * 45, '{"tokens": ["a"]}'],
            r"train\.jsonl:91: field 'tags' is absent",
        ),
        (['{"tokens": ["a"], "tags": ["O"]}'] * 90, "the training split holds no label"),
        ([""] * 900, "the train split is empty"),
        ([], "the train split is empty"),
    ],
)
def test_a_mistake_in_a_part_is_named_as_in_a_whole_file(tmp_path, read, lines, message):
    path = write_classes(tmp_path)
    (path / "dev.jsonl").write_text('{"tokens": ["a"], "tags": ["O"]}')
    (path / "test.jsonl").write_text('{"tokens": ["a"], "tags": ["O"]}')
    (path / "train.jsonl").write_text("\n".join(lines))
    for mode in ("stream", "memory"):
        with pytest.raises(DataError, match=message):
            read(path, mode=mode)
    assert list((tmp_path / "cache").glob("*")) + list((tmp_path / "cache").glob(".*")) == []


def test_labels_that_were_not_asked_for_are_named(tmp_path, read):
    path = write_conll(tmp_path / "data")
    with pytest.raises(DataError, match=r"train\.conll:\d+: unknown label '(LOC|PER)'\. Allowed: ORG"):
        read(path, TokenClassification(labels=("ORG",)))
    (path / "test.conll").write_text("anna B-GOD\n")
    with pytest.raises(DataError, match=r"test\.conll:1: unknown label 'GOD'"):
        read(path)


def test_what_cannot_be_streamed_is_refused_with_the_reason(tmp_path, read):
    path = write_conll(tmp_path / "data")
    with pytest.raises(DataError, match=r"max_examples=3 asks for a part .*Remedy: .*ingest\.mode=memory"):
        read(path, max_examples=3)
    with pytest.raises(DataError, match="'demo' is no directory"):
        read("demo")
    (path / "dev.conll").unlink()
    with pytest.raises(DataError, match=r"no dev split.*Remedy: add what is missing"):
        read(path)
    assert len(read(path, mode="memory").dev) == 12


def test_auto_streams_what_is_large(tmp_path):
    config = DataConfig(path=str(write_conll(tmp_path)))
    size = (tmp_path / "train.conll").stat().st_size / 1e6
    assert streams(config, IngestConfig(stream_above_mb=size * 0.99))
    assert not streams(config, IngestConfig(stream_above_mb=size * 1.01))
    assert not streams(config.model_copy(update={"max_examples": 5}), IngestConfig(stream_above_mb=size * 0.99))
    assert not streams(DataConfig(), IngestConfig(stream_above_mb=1e-9))
    assert streams(config, IngestConfig(mode="stream"))
    assert not streams(config, IngestConfig(mode="memory", stream_above_mb=1e-9))


def test_a_worker_maps_the_windows_that_the_driver_made(tmp_path, read):
    import ray

    @ray.remote
    def collate(windows, rows):
        return type(windows).__name__, windows.collate(rows, 0)[0].input_ids

    data = read(write_conll(tmp_path / "data"))
    rows = np.array([3, 77, 0])
    name, ids = ray.get(collate.remote(ray.put(data.train), rows))
    assert name == "StoredWindows"
    np.testing.assert_array_equal(ids, data.train.collate(rows, 0)[0].input_ids)


def test_a_node_that_does_not_share_the_cache_is_named(tmp_path, encoder):
    file = write_conll(tmp_path / "data") / "train.conll"
    config = DataConfig(path=str(file.parent))
    parts, _ = open_split(config, [file]).cut(1_000_000)
    elsewhere = ParallelEncoding(parts, TokenClassification(), encoder, tmp_path / "not" / "here", config)
    with pytest.raises(DataError, match=r"cannot be written to .*not/here on the node .*Remedy: .*all nodes share"):
        elsewhere.run()


def test_what_cannot_be_cut_is_read_as_a_whole(tmp_path, read):
    path = write_conll(tmp_path / "data")
    plain = read(path, mode="memory", cache=None)
    (path / "train.conll.gz").write_bytes(gzip.compress((path / "train.conll").read_bytes()))
    (path / "train.conll").unlink()
    config = DataConfig(path=str(path))
    assert not streams(config, IngestConfig(stream_above_mb=0.000_001))
    assert read(path, mode="memory", cache=None).digest == plain.digest
    with pytest.raises(
        DataError,
        match=r"train\.conll\.gz \(CoNLL columns\) is read as a whole.*Remedy: write them: python -m agent\.data",
    ):
        read(path)


def test_several_files_are_one_split_in_order_of_name(tmp_path, read):
    rows = [json.dumps({"tokens": words, "tags": tags}) for words, tags in sentences(40)]
    path = write_conll(tmp_path / "data")
    (path / "train.conll").unlink()
    (path / "train-b.jsonl").write_text("\n".join(rows[25:]))
    (path / "train-a.jsonl").write_text("\n".join(rows[:25]))
    for mode in ("stream", "memory"):
        several = read(path, mode=mode, cache=None if mode == "memory" else "cache")
        (tmp_path / "one").mkdir(exist_ok=True)
        for name in ("dev.conll", "test.conll"):
            (tmp_path / "one" / name).write_bytes((path / name).read_bytes())
        (tmp_path / "one" / "train.jsonl").write_text("\n".join(rows))
        one = read(tmp_path / "one", mode="memory", cache=None)
        equal(several.train, one.train)
        assert several.digest == one.digest
