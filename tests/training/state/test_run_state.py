from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from agent.tasks import Report
from tests.training.rows import step_row
from training.state.run_state import EpochTotals, RunState


def reports(*values):
    return [Report(metrics={"f1": value}, primary="f1", support=10, text="", mode="strict") for value in values]


def test_totals_weigh_losses_by_their_targets_and_rates_by_time():
    totals = EpochTotals()
    totals.add(step_row(1, loss=2.0, tokens=100, padded_tokens=120, sentences=4, seconds=1.0, host_s=0.5), labelled=30)
    totals.add(step_row(2, loss=1.0, tokens=60, padded_tokens=80, sentences=2, seconds=3.0, host_s=0.5), labelled=10)
    totals.save_s += 1.0
    assert totals.summary() == {
        "loss": 1.75, "seconds": 4.0, "tokens_per_s": 40.0, "sentences_per_s": 1.5, "padding_share": pytest.approx(0.2),
        "host_share": 0.25, "save_share": 0.25,
    }  # fmt: skip
    assert totals.steps == 2


def test_an_epoch_without_steps_has_rates_of_nothing():
    summary = EpochTotals().summary()
    assert summary["loss"] == 0
    assert summary["tokens_per_s"] == 0


def test_the_best_epoch_is_the_last_of_equals_and_what_is_no_better_makes_the_run_stale():
    state, seen = RunState(), []
    for number, value in enumerate(reports(0.5, 0.5, 0.7, 0.6, 0.8)):
        state.steps_in_epoch, state.totals.steps = 4, 4
        state.close_epoch(value, {"epoch": number + 1}, min_delta=0.0)
        seen.append((state.best_epoch, state.stale, state.improved))
        assert (state.steps_in_epoch, state.totals) == (0, EpochTotals())
    assert seen == [(1, 0, True), (2, 1, True), (3, 0, True), (3, 1, False), (5, 0, True)]
    assert state.epoch == 5
    assert [row["epoch"] for row in state.history] == [1, 2, 3, 4, 5]
    assert state.dev.value == 0.8


def test_what_is_better_by_less_than_min_delta_does_not_count():
    state = RunState()
    for value in reports(0.5, 0.55, 0.61):
        state.close_epoch(value, {}, min_delta=0.1)
    assert (state.best_epoch, state.dev.value) == (3, 0.61)


def test_patience_begins_when_something_is_right():
    state, seen = RunState(), []
    for value in reports(0.0, 0.0, 0.0, 0.2, 0.1):
        state.close_epoch(value, {}, min_delta=0.0)
        seen.append((state.best_epoch, state.stale))
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 0), (4, 1)]


def test_before_the_first_epoch_nothing_has_improved():
    assert not RunState().improved


def test_a_state_outlives_json():
    state = RunState(
        epoch=1,
        step=7,
        totals=EpochTotals(loss_sum=0.1 + 0.2),
        history=[{"loss": 1 / 3}],
        probe_loss=0.3,
        dev=reports(0.7)[0],
    )
    assert RunState.model_validate(json.loads(json.dumps(state.model_dump(mode="json")))) == state


def test_a_state_of_another_program_is_refused():
    with pytest.raises(ValidationError, match="momentum"):
        RunState.model_validate({"step": 1, "momentum": 0.9})
