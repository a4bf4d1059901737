"""Batches of like length."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.batching import cut_by_length


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
