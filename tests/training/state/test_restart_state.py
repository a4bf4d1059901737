"""The state that outlives worker groups; that they reach workers through Ray is shown by test_faults.py."""

from __future__ import annotations

from agent.errors import CheckpointError, TrainingError
from training.state.restart_state import RestartState


def test_a_first_group_finds_a_clean_state():
    start = RestartState(4096).register(0)
    assert (start.failure, start.micro_tokens, start.starts) == (None, 4096, 0)


def test_starts_are_groups_not_workers():
    notes = RestartState(4096)
    for group in range(3):
        assert notes.register(0).starts == group
        notes.register(1)
        notes.register(2)


def test_several_workers_that_lack_memory_at_once_halve_once():
    notes = RestartState(4096)
    for _ in range(3):
        notes.halve(4096)
    assert notes.register(0).micro_tokens == 2048
    notes.halve(2048)
    notes.halve(4096)  # late, from the group before
    assert notes.register(0).micro_tokens == 1024


def test_the_first_failure_is_the_one_that_is_told():
    notes = RestartState(4096)
    cause = CheckpointError("no room")
    notes.fail(cause)
    notes.fail(TrainingError("another worker is gone"))
    assert notes.register(0).failure is cause
    assert notes.register(1).failure is cause
