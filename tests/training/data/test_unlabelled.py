"""Text without labels: windows with targets that nobody knows, joined to the labelled ones, in memory or on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.encoding import IGNORED, Encoder
from agent.errors import DataError
from agent.tasks import MultiLabelClassification, TextClassification, TokenClassification
from tests.tiny import make_tokenizer
from training.data.ingest import IngestConfig
from training.data.packing import UNLABELLED, JoinedWindows, forget_labels, pack
from training.data.token_cache import StoredWindows
from training.data.unlabelled import open_unlabelled

TAGGER, CLASSIFIER = TokenClassification(labels=("LOC", "ORG", "PER")), TextClassification(labels=("a", "b"))
LABELLER = MultiLabelClassification(labels=("a", "b"))
TEXTS = ["anna went to oslo .", "acme hired anna .", "nothing happened today . " * 9, "x"]
ENCODER = Encoder(make_tokenizer(), max_tokens=16, stride=4)
MEMORY = IngestConfig()


def windows_of(task, texts):
    return pack(task, ENCODER, [task.read_unlabelled({"text": text}, "here") for text in texts])


def same(one, other):
    rows = np.arange(len(one.labelled))
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_array_equal(one.labelled, other.labelled)
    np.testing.assert_array_equal(one.owners, other.owners)
    (batch, targets), (other_batch, other_targets) = one.collate(rows, 0), other.collate(rows, 0)
    np.testing.assert_array_equal(batch.input_ids, other_batch.input_ids)
    np.testing.assert_array_equal(targets, other_targets)


@pytest.mark.parametrize("task", [TAGGER, CLASSIFIER, LABELLER], ids=lambda task: task.kind)
def test_a_teacher_is_asked_wherever_a_label_would_stand(task):
    labelled, unlabelled = windows_of(task, TEXTS), forget_labels(windows_of(task, TEXTS))
    np.testing.assert_array_equal(labelled.targets != IGNORED, unlabelled.targets == UNLABELLED)
    assert set(np.unique(unlabelled.targets)) <= {IGNORED, UNLABELLED}
    assert unlabelled.target_counts(len(task.outputs)).sum() == 0
    assert unlabelled.num_labelled == 0
    assert labelled.labelled.sum() == unlabelled.labelled.sum() > 0


@pytest.mark.parametrize("task", [TAGGER, CLASSIFIER, LABELLER], ids=lambda task: task.kind)
@given(chosen=st.lists(st.integers(0, 10), max_size=9, unique=True))
def test_joined_windows_are_those_of_their_sources_in_the_order_asked_for(task, chosen):
    first, last = windows_of(task, TEXTS), forget_labels(windows_of(task, TEXTS[::-1]))
    joined, split = JoinedWindows(first, last), len(first.labelled)
    rows = np.array(sorted(set(chosen) & set(range(len(joined.labelled))), key=chosen.index), np.int64)
    batch, targets = joined.collate(rows, 0)
    for position, row in enumerate(rows.tolist()):
        source, own = (first, row) if row < split else (last, row - split)
        alone, wanted = source.collate(np.array([own]), 0)
        length = alone.input_ids.shape[1]
        assert batch.input_ids[position, :length].tolist() == alone.input_ids[0].tolist()
        assert batch.attention_mask[position].sum() == length
        if task is TAGGER:
            assert targets[position, :length].tolist() == wanted[0].tolist()
            assert set(targets[position, length:].tolist()) <= {IGNORED}
        else:
            assert targets[position].tolist() == wanted[0].tolist()
    assert joined.lengths.tolist() == [*first.lengths.tolist(), *last.lengths.tolist()]
    assert joined.owners.tolist() == sorted(joined.owners.tolist())
    assert len(np.unique(joined.owners)) == 2 * len(TEXTS)


@pytest.mark.parametrize("task", [TAGGER, CLASSIFIER, LABELLER], ids=lambda task: task.kind)
def test_text_and_json_lines_in_a_directory_are_read_alike_and_in_order(task, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS[:2]), encoding="utf-8")
    rows = [{"text": TEXTS[2]}, {"tokens": TEXTS[3].split(), "tags": ["O"]}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "notes.md").write_text("no text", encoding="utf-8")
    found = open_unlabelled(str(tmp_path), task, ENCODER, MEMORY)
    same(found.windows, forget_labels(windows_of(task, TEXTS)))
    assert found.note.startswith("4 texts")
    (tmp_path / "a.txt").write_text("other", encoding="utf-8")
    assert open_unlabelled(str(tmp_path), task, ENCODER, MEMORY).digest != found.digest


def test_much_text_goes_to_disk_part_by_part_and_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.ingest._PART_BYTES", 40)
    (tmp_path / "a.txt").write_text("\n".join(TEXTS * 5), encoding="utf-8")
    inside = open_unlabelled(str(tmp_path / "a.txt"), TAGGER, ENCODER, MEMORY)
    ingest = IngestConfig(stream_above_mb=0.0001, cache=str(tmp_path / "cache"))
    outside = [open_unlabelled(str(tmp_path / "a.txt"), TAGGER, ENCODER, ingest) for _ in range(2)]
    for found in (inside, *outside):
        same(found.windows, forget_labels(windows_of(TAGGER, TEXTS * 5)))
    assert isinstance(outside[1].windows, StoredWindows)
    assert len([place for place in (tmp_path / "cache").iterdir() if not place.name.startswith(".")]) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "x", "is no file of text"),
        ("a.txt", " \n\n", "holds no text"),
        ("a.jsonl", '{"label": "x"}', r"a\.jsonl:1: no field 'text'"),
        ("a.jsonl", "nonsense", r"a\.jsonl:1: no JSON"),
    ],
)
def test_what_holds_no_text_is_refused_by_its_place(name, content, told, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        open_unlabelled(str(tmp_path / name), TAGGER, ENCODER, MEMORY)


def test_a_directory_without_text_and_a_path_to_nothing_are_refused(tmp_path):
    for path, told in ((tmp_path, "holds no text"), (tmp_path / "nowhere.txt", "is no file")):
        with pytest.raises(DataError, match=told):
            open_unlabelled(str(path), TAGGER, ENCODER, MEMORY)
