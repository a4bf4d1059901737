"""The state that outlives worker groups; that they reach workers through Ray is shown by test_faults.py."""

from __future__ import annotations

from agent.errors import CheckpointError, TrainingError
from training.state.restart_state import RestartState


def test_a_first_group_finds_a_clean_state():
    start = RestartState(4096, max_failures=3).register(0)
    assert (start.failure, start.micro_tokens, start.starts) == (None, 4096, 0)


def test_starts_are_groups_not_workers():
    notes = RestartState(4096, max_failures=3)
    for group in range(3):
        assert notes.register(0).starts == group
        notes.register(1)
        notes.register(2)


def test_several_workers_that_lack_memory_at_once_halve_once():
    notes = RestartState(4096, max_failures=3)
    for _ in range(3):
        notes.halve(4096)
    assert notes.register(0).micro_tokens == 2048
    notes.halve(2048)
    notes.halve(4096)  # late, from the group before
    assert notes.register(0).micro_tokens == 1024


def test_the_first_failure_is_the_one_that_is_told():
    notes = RestartState(4096, max_failures=3)
    cause = CheckpointError("no room")
    notes.fail(cause)
    notes.fail(TrainingError("another worker is gone"))
    assert notes.register(0).failure is cause
    assert notes.register(1).failure is cause


def test_a_crash_more_than_the_run_may_go_on_from_ends_it():
    notes = RestartState(4096, max_failures=1)
    notes.crash("KeyError: 'a'")
    assert notes.register(0).failure is None
    notes.crash("KeyError: 'b'")
    failure = notes.register(0).failure
    assert isinstance(failure, TrainingError)
    assert "KeyError: 'b'" in str(failure)


def test_halved_micro_batches_are_no_crashes():
    notes = RestartState(4096, max_failures=0)
    notes.halve(4096)
    assert notes.register(0).failure is None
