from __future__ import annotations

import numpy as np
import pytest

from agent.batching import pad
from agent.encoding import IGNORED, Encoder
from agent.tasks import MultiLabelClassification, TextClassification, TokenClassification
from tests.tiny import make_tokenizer, sentences
from training.data import packing
from training.data.packing import pack


@pytest.fixture(scope="module")
def encoder():
    return Encoder(make_tokenizer(), max_tokens=16, stride=4)


def examples(task, count=30):
    pairs = sentences(count)
    if task.kind == "token_classification":
        return [task.read_record({"tokens": words * 3, "tags": tags * 3}, "here") for words, tags in pairs]
    labels = [{"label": tags[0], "labels": sorted({*tags[:3]})} for _, tags in pairs]
    return [
        task.read_record({"text": " ".join(words * 3)} | label, "here")
        for (words, _), label in zip(pairs, labels, strict=True)
    ]


LABELLER = MultiLabelClassification(labels=("B-LOC", "B-ORG", "B-PER", "O"))


@pytest.mark.parametrize(
    "task",
    [TokenClassification(labels=("LOC", "ORG", "PER")), TextClassification(labels=("B-ORG", "B-PER", "O")), LABELLER],
)
def test_collating_packed_windows_equals_padding_the_windows_themselves(task, encoder):
    items = examples(task)
    documents = task.encode(encoder, items)
    windows = [window for document in documents for window in document.windows]
    wanted = [
        target for item, document in zip(items, documents, strict=True) for target in task.targets(item, document)
    ]
    packed = pack(task, encoder, items)
    rows = np.array([5, 0, len(windows) - 1, 7])
    batch, targets = packed.collate(rows, encoder.pad_id)
    plain = pad([windows[row] for row in rows], encoder.pad_id)
    np.testing.assert_array_equal(batch.input_ids, plain.input_ids)
    np.testing.assert_array_equal(batch.attention_mask, plain.attention_mask)
    for index, row in enumerate(rows):
        expected = wanted[row]
        if expected.ndim:
            np.testing.assert_array_equal(targets[index][: len(expected)], expected)
            assert (targets[index][len(expected) :] == IGNORED).all()
        else:
            assert targets[index] == expected


def test_every_piece_is_trained_once_however_long_the_document(encoder):
    task = TokenClassification(labels=("LOC", "ORG", "PER"))
    items = examples(task)
    assert pack(task, encoder, items).labelled.sum() == sum(len(item.words) for item in items), (
        "words and pieces are the same here"
    )


@pytest.mark.parametrize(
    ("task", "shape"), [(TokenClassification(labels=("LOC", "ORG", "PER")), (1, 1)), (LABELLER, (1, 4))]
)
def test_no_rows_make_a_batch_that_counts_nothing(encoder, task, shape):
    batch, targets = pack(task, encoder, examples(task)).collate(np.empty(0, np.int64), encoder.pad_id)
    assert (batch.input_ids.shape, targets.shape) == ((1, 1), shape)
    assert (targets == IGNORED).all()


def test_owners_say_of_which_example_a_window_is(encoder):
    task = TokenClassification(labels=("LOC", "ORG", "PER"))
    items = examples(task)
    packed = pack(task, encoder, items)
    documents = task.encode(encoder, items)
    wanted = [number for number, document in enumerate(documents) for _ in document.windows]
    assert len(wanted) > len(items)
    assert packed.owners.tolist() == wanted


@pytest.mark.parametrize(
    "task", [TokenClassification(labels=("LOC", "ORG", "PER")), TextClassification(labels=("B-ORG", "B-PER", "O", "X"))]
)
def test_targets_are_counted_without_those_that_are_ignored(task, encoder, monkeypatch):
    monkeypatch.setattr(packing, "_COUNTED", 7)
    packed = pack(task, encoder, examples(task))
    kept = packed.targets[packed.targets != IGNORED].tolist()
    assert packed.target_counts(len(task.outputs)).tolist() == [kept.count(n) for n in range(len(task.outputs))]
    assert packed.target_counts(len(task.outputs)).sum() == packed.labelled.sum()
    assert packed.num_labelled == packed.labelled.sum()


def test_of_binary_outputs_those_that_hold_are_counted_and_all_are_labelled(encoder, monkeypatch):
    monkeypatch.setattr(packing, "_COUNTED", 7)
    items = examples(LABELLER)
    packed = pack(LABELLER, encoder, items)
    windows = np.bincount(packed.owners)
    wanted = [
        sum(n for item, n in zip(items, windows, strict=True) if label in item.labels) for label in LABELLER.labels
    ]
    assert packed.target_counts(4).tolist() == wanted
    assert packed.num_labelled == packed.labelled.sum() == 4 * windows.sum()
    assert not packed.per_token
