from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.state.resharding import windows
from training.data.batch_plan import BatchConfig, plan_epoch, share
from training.data.packing import PackedWindows
from training.loop.train_step import BatchPrefetcher, ModelInputs, _step_seed

NAMES = frozenset({"input_ids", "attention_mask"})


def prefetcher(
    rank=0, num_workers=1, *, num_parallel=1, source=None, names=NAMES, finds_touched_rows=False, micro_tokens=32
):
    inputs = ModelInputs(names, torch.device("cpu"), packed=False)
    batch = BatchConfig(tokens=96, micro_tokens=micro_tokens)
    return BatchPrefetcher(source or windows(), inputs, batch, 0, rank, num_workers, num_parallel, finds_touched_rows)


def plan(epoch=0):
    return plan_epoch(windows().lengths, config=BatchConfig(tokens=96), seed=0, epoch=epoch)


def rows_in(step):
    """The windows that a prepared step computes, as tuples of their tokens and targets; a row of padding alone is none."""
    found = []
    for inputs, targets, _ in step.micro_batches:
        for ids, mask, wanted in zip(inputs["input_ids"], inputs["attention_mask"].bool(), targets, strict=True):
            if (wanted != -100).any():
                found.append((tuple(ids[mask].tolist()), tuple(wanted[mask].tolist())))
    return sorted(found)


def same(one, other):
    assert one.rows.tolist() == other.rows.tolist()
    assert (one.labelled, one.tokens, one.padded_tokens, one.sentences) == (
        other.labelled, other.tokens, other.padded_tokens, other.sentences
    )  # fmt: skip
    assert len(one.micro_batches) == len(other.micro_batches)
    for (ours, our_targets, _), (theirs, their_targets, _) in zip(one.micro_batches, other.micro_batches, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours)
        assert our_targets.equal(their_targets)


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60),
    num_workers=st.integers(1, 5),
    micro_tokens=st.integers(16, 200),
    data=st.data(),
)
def test_the_parts_of_all_workers_are_the_step_and_each_window_once(lengths, num_workers, micro_tokens, data):
    lengths = np.array(lengths, np.int64)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    rows, config = np.array(chosen, np.int64), BatchConfig(micro_tokens=micro_tokens)
    parts = [share(rows, lengths, config=config, rank=rank, num_workers=num_workers) for rank in range(num_workers)]
    computed = [int(row) for part in parts for batch in part.micro_batches for row in batch]
    assert sorted(computed) == sorted(chosen)
    assert len({len(part.micro_batches) for part in parts}) == 1  # or collective calls would not meet
    batches = [lengths[batch] for part in parts for batch in part.micro_batches if len(batch)]
    assert all(len(batch) == 1 or len(batch) * batch.max() <= micro_tokens for batch in batches)
    assert {part.padded_tokens for part in parts} == {sum(int(batch.max()) * len(batch) for batch in batches)}


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_prepared_parts_hold_the_step_s_tokens_and_targets(num_workers):
    whole = [step for step, _ in prefetcher(micro_tokens=10_000).steps(plan(), 0)]
    workers = [[step for step, _ in prefetcher(rank, num_workers).steps(plan(), 0)] for rank in range(num_workers)]
    for wanted, *parts in zip(whole, *workers, strict=True):
        assert sorted(row for part in parts for row in rows_in(part)) == rows_in(wanted)
        assert len({len(part.micro_batches) for part in parts}) == 1
        labelled = sum(int((targets != -100).sum()) for part in parts for _, targets, _ in part.micro_batches)
        tokens = sum(len(ids) for part in parts for ids, _ in rows_in(part))
        for part in parts:
            assert (part.labelled, part.tokens) == (labelled, tokens)
    assert sum(step.sentences for step in whole) == 200


def test_more_workers_than_windows_leave_some_with_batches_that_count_nothing():
    rows, busy = np.array([0, 1], np.int64), (0, 1)
    for rank in range(5):
        step = prefetcher(rank, 5)._prepare(rows)
        assert len(step.micro_batches) == 1
        inputs, targets, _ = step.micro_batches[0]
        assert bool((targets != -100).any()) == (rank in busy)
        assert inputs["input_ids"].shape == targets.shape  # and a model can compute it


@pytest.mark.parametrize("first", [0, 1, 7])
def test_steps_prepared_ahead_are_those_prepared_in_time(first):
    ours = prefetcher(1, 2)
    ahead = list(ours.steps(plan(), first))
    assert len(ahead) == len(plan()) - first
    for index, (step, waited) in enumerate(ahead):
        same(step, prefetcher(1, 2)._prepare(plan()[first + index]))
        assert waited >= 0


def test_the_last_step_of_an_epoch_is_a_place_to_go_on_from():
    assert len(list(prefetcher().steps(plan(), len(plan()) - 1))) == 1


@pytest.mark.parametrize("num_workers", [1, 3])
def test_touched_are_the_tokens_that_any_worker_embeds(num_workers):
    for index in (0, 5, 9):
        prepared = [
            prefetcher(rank, num_workers, finds_touched_rows=True)._prepare(plan()[index])
            for rank in range(num_workers)
        ]
        embedded = {token for step in prepared for ids, _ in rows_in(step) for token in ids}
        for step in prepared:
            assert step.touched_rows.equal(prepared[0].touched_rows)
            assert len(step.touched_rows.unique()) == len(step.touched_rows)
            assert embedded <= set(step.touched_rows.tolist()) <= embedded | {0}  # 0 is padding
    assert prefetcher()._prepare(plan()[0]).touched_rows is None


def test_a_model_gets_the_inputs_that_it_has():
    rows = plan()[0]
    for names in (NAMES, NAMES | {"token_type_ids"}, frozenset({"input_ids"})):
        assert prefetcher(names=names | {"labels"})._prepare(rows).micro_batches[0][0].keys() == names


@dataclass(frozen=True)
class FailingWindows(PackedWindows):
    """Windows on a disk that goes away after some batches."""

    left: list[int] | None = None

    def collate(self, rows, pad_id):
        self.left.append(len(rows))
        if len(self.left) > 6:
            raise OSError("the disk is gone")
        return super().collate(rows, pad_id)


def test_what_fails_while_collating_ahead_is_raised_in_the_loop_and_ends_the_thread():
    source = windows()
    failing = FailingWindows(
        source.input_ids,
        source.targets,
        source.bounds,
        source.labelled,
        source.owners,
        source.seconds,
        source.logged,
        left=[],
    )
    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetcher(source=failing).steps(plan(), 0))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("collate")]


def test_a_loop_that_is_left_early_ends_the_thread():
    steps = prefetcher().steps(plan(), 0)
    next(steps)
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("collate")]


def test_every_step_of_every_worker_and_run_has_random_numbers_of_its_own():
    seeds = [_step_seed(seed, number, rank) for seed in range(3) for number in range(400) for rank in range(5)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first = []
    for seed in seeds[:200]:
        torch.manual_seed(seed)
        first.append(torch.rand(()).item())
    assert len(set(first)) > 190


def test_the_seed_of_a_step_does_not_depend_on_the_steps_before_it():
    assert _step_seed(0, 7, 1) == _step_seed(0, 7, 1)
    assert _step_seed(1, 0, 0) != _step_seed(0, 1, 0) != _step_seed(0, 0, 1)
