"""Batches of like length."""

import time
from itertools import accumulate, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.batching import cut_ascending, cut_by_length


def cut_one_by_one(lengths, max_tokens):
    """The same, item by item."""
    batches = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or lengths[index] * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


@given(lengths=st.lists(st.integers(0, 600), max_size=300), budget=st.integers(1, 5000))
def test_cutting_by_halves_is_cutting_one_by_one(lengths, budget):
    wanted = cut_one_by_one(lengths, budget)
    assert list(cut_by_length(lengths, max_tokens=budget)) == wanted
    assert cut_ascending(sorted(lengths), max_tokens=budget) == [0, *accumulate(map(len, wanted))]


def test_a_million_items_are_cut_in_a_fraction_of_a_second():
    lengths = np.sort(np.random.default_rng(0).integers(5, 60, 1_000_000)).tolist()
    begun = time.process_time()
    cut_ascending(lengths, max_tokens=1024)
    assert time.process_time() - begun < 1.0


@given(lengths=st.lists(st.integers(0, 600), max_size=80), budget=st.integers(1, 2000))
def test_batches_hold_every_index_once_within_the_budget_and_in_order(lengths, budget):
    batches = list(cut_by_length(lengths, max_tokens=budget))
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths)
    assert all(len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget for batch in batches)
    assert all(batches)


@given(lengths=st.lists(st.integers(1, 50), min_size=2, max_size=40), budget=st.integers(50, 400))
def test_no_batch_could_have_taken_the_next_item(lengths, budget):
    batches = list(cut_by_length(lengths, max_tokens=budget))
    for batch, following in pairwise(batches):
        assert lengths[following[0]] * (len(batch) + 1) > budget


def test_equal_lengths_keep_their_order():
    assert list(cut_by_length([3, 3, 1, 3], max_tokens=6)) == [[2, 0], [1, 3]]


def test_nothing_makes_no_batch():
    assert list(cut_by_length([], max_tokens=8)) == []
