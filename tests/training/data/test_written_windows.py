"""Batches of texts to write: what is asked, parted for a decoder, the same whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agent.batching import pad
from agent.encoding import Encoder
from agent.tasks import KINDS
from tests.tiny_writers import END, PAD, make_word_tokenizer, written_records
from training.data.packing import pack
from training.data.written_windows import WrittenWindows
from training.loop.train_step import ModelInputs

KIND = {True: "sequence_to_sequence", False: "text_generation"}
both = pytest.mark.parametrize("decodes", [True, False], ids=["encoder and decoder", "decoder alone"])


def encoder(decodes):
    return Encoder(make_word_tokenizer(ends=decodes), max_tokens=32, stride=8)


def examples(decodes, count=20):
    return [KINDS[KIND[decodes]]().read_record(record, f"f:{n}") for n, record in enumerate(written_records(count), 1)]


def windows(decodes):
    return WrittenWindows(pack(KINDS[KIND[decodes]](), encoder(decodes), examples(decodes)), decodes)


def words(ids):
    tokenizer = make_word_tokenizer(ends=False)
    return " ".join(tokenizer.id_to_token(int(number)) for number in ids)


def test_a_decoder_sees_the_start_and_what_was_written_and_says_the_next_word():
    batch, targets = windows(True).collate(np.arange(20), 0)
    inputs = ModelInputs(frozenset(), torch.device("cpu"), packed=False, start_id=4)
    shown, rest = inputs.decoder_input_ids(batch), targets
    for row, example in enumerate(examples(True)):
        assert words(batch.input_ids[row][batch.attention_mask[row] == 1]) == f"{example.text} {END}"
        count = int(batch.asked[row].sum())
        said, rest = rest[:count], rest[count:]
        assert words(said) == f"{example.target} {END}"
        assert shown[row, :count].tolist() == [4, *said[:-1].tolist()]
        assert words(shown[row, count:]) in (" ".join([END, *[PAD] * (shown.shape[1] - count - 1)]), "")
    assert len(rest) == 0
    assert set(inputs.touched_rows(batch).tolist()) == {4, *batch.input_ids.ravel(), *shown.ravel()}


def test_a_decoder_alone_says_after_each_word_the_next_of_the_target():
    batch, targets = windows(False).collate(np.arange(20), 0)
    assert batch.decoder_ids is None
    rest = targets
    for row, example in enumerate(examples(False)):
        whole = f"{example.text} {example.target} {END}"
        assert words(batch.input_ids[row][batch.attention_mask[row] == 1]) == whole
        places = np.flatnonzero(batch.asked[row])
        said, rest = rest[: len(places)], rest[len(places) :]
        assert said.tolist() == batch.input_ids[row][places + 1].tolist()
        assert words(said) == f"{example.target} {END}"
    assert len(rest) == 0


@both
def test_evaluation_makes_of_documents_the_batches_that_training_makes(decodes):
    documents = KINDS[KIND[decodes]]().encode(encoder(decodes), examples(decodes))
    ours, targets = windows(decodes).collate(np.arange(20), 0)
    theirs = pad([document.windows[0] for document in documents], 0)
    for name in ("input_ids", "attention_mask", "token_type_ids", "asked", "decoder_ids"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    logits = np.arange(len(targets) * 3, dtype=np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(np.concatenate(theirs.rows_of(logits)), logits)
    assert [len(rows) for rows in theirs.rows_of(logits)] == windows(decodes).labelled.tolist()


@both
def test_no_rows_are_a_batch_that_a_model_can_compute_and_that_counts_nothing(decodes):
    batch, targets = windows(decodes).collate(np.zeros(0, np.int64), 0)
    assert batch.input_ids.shape == batch.attention_mask.shape == (1, 1)
    assert batch.asked.shape == (1, 1)
    assert batch.asked.sum() == len(targets) == 0
    assert (batch.decoder_ids is not None) == decodes


@both
def test_a_window_costs_what_is_given_and_what_is_written(decodes):
    packed = windows(decodes)
    for length, labelled, example in zip(packed.lengths, packed.labelled, examples(decodes), strict=True):
        assert labelled == len(example.target.split()) + 1
        assert length == len(example.text.split()) + labelled + decodes
    assert packed.count_labelled(np.array([0, 3])) == packed.labelled[[0, 3]].sum()
    assert packed.num_labelled == packed.labelled.sum()
