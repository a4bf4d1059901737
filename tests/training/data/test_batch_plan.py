from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import batch_plan
from training.data.batch_plan import BatchConfig, plan_epoch, share

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=200).map(lambda items: np.array(items, np.int64))


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(16, 2000), st.integers(0, 5))
def test_an_epoch_holds_every_window_exactly_once(lengths, tokens, epoch):
    steps = plan_epoch(lengths, config=BatchConfig(tokens=tokens), seed=3, epoch=epoch)
    assert sorted(np.concatenate(list(steps)).tolist()) == list(range(len(lengths)))


def plan_simply(lengths, *, config, seed, epoch, pool):
    """The same plan, as it was made before plans were compact: runs must be able to go on from old checkpoints."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    steps = []
    for part in np.array_split(order, max(1, -(-len(order) // pool))):
        batches = []
        for row in part[np.argsort(lengths[part], kind="stable")]:
            if not batches or lengths[row] * (len(batches[-1]) + 1) > config.tokens:
                batches.append([])
            batches[-1].append(int(row))
        steps += batches
    return [steps[index] for index in rng.permutation(len(steps))]


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(16, 2000), st.integers(0, 5), st.sampled_from([7, 50, 16_384]))
def test_a_plan_is_that_of_the_simple_way(lengths, tokens, epoch, pool):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_plan, "_POOL", pool)
        plan = plan_epoch(lengths, config=BatchConfig(tokens=tokens), seed=3, epoch=epoch)
    wanted = plan_simply(lengths, config=BatchConfig(tokens=tokens), seed=3, epoch=epoch, pool=pool)
    assert [rows.tolist() for rows in plan] == wanted
    assert len(plan) == len(wanted)
    assert plan[len(plan) - 1].tolist() == wanted[-1]
    assert plan[0].dtype == np.int64


def test_a_plan_is_small_and_soon_made():
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 0.6, 1_000_000), 3, 200).astype(np.int64)
    begun = time.process_time()
    plan = plan_epoch(lengths, config=BatchConfig(tokens=1024), seed=0, epoch=0)
    assert time.process_time() - begun < 2.0
    assert plan.order.nbytes + plan.bounds.nbytes + plan.sequence.nbytes < 5 * len(lengths)


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(16, 2000))
def test_a_step_keeps_its_budget_of_padded_tokens(lengths, tokens):
    for rows in plan_epoch(lengths, config=BatchConfig(tokens=tokens), seed=0, epoch=0):
        assert len(rows) == 1 or lengths[rows].max() * len(rows) <= tokens


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 5), st.integers(16, 400))
def test_workers_share_a_step_without_loss_and_run_the_same_number_of_micro_batches(lengths, num_workers, micro_tokens):
    config = BatchConfig(tokens=1000, micro_tokens=micro_tokens)
    for rows in plan_epoch(lengths, config=config, seed=0, epoch=0):
        parts = [share(rows, lengths, config=config, rank=rank, num_workers=num_workers) for rank in range(num_workers)]
        assert len({len(part.micro_batches) for part in parts}) == 1
        seen = np.concatenate([micro for part in parts for micro in part.micro_batches])
        assert sorted(seen.tolist()) == sorted(rows.tolist())


def test_workers_get_about_the_same_number_of_tokens():
    lengths = np.random.default_rng(0).integers(5, 60, 5000)
    config = BatchConfig(tokens=4096)
    totals = np.zeros(4)
    for rows in plan_epoch(lengths, config=config, seed=0, epoch=0):
        for rank in range(4):
            totals[rank] += sum(
                lengths[micro].sum()
                for micro in share(rows, lengths, config=config, rank=rank, num_workers=4).micro_batches
            )
    assert totals.max() / totals.min() < 1.05


def test_epochs_differ_and_the_same_epoch_repeats():
    lengths = np.arange(1, 500)
    plans = [plan_epoch(lengths, config=BatchConfig(tokens=1024), seed=1, epoch=epoch) for epoch in (0, 1, 0)]
    assert [rows.tolist() for rows in plans[0]] == [rows.tolist() for rows in plans[2]]
    assert [rows.tolist() for rows in plans[0]] != [rows.tolist() for rows in plans[1]]


@pytest.mark.parametrize("num_windows", [40_000])
def test_padding_stays_small_on_a_natural_length_distribution(num_windows):
    lengths = np.clip(np.random.default_rng(0).lognormal(3, 0.6, num_windows), 3, 200).astype(np.int64)
    steps = plan_epoch(lengths, config=BatchConfig(tokens=1024), seed=0, epoch=0)
    padded = sum(lengths[rows].max() * len(rows) for rows in steps)
    assert 1 - lengths.sum() / padded < 0.02
