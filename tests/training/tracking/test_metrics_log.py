"""The journal keeps every row as JSON; joined rows say what their parts say together."""

import json
import math

import pytest

from tests.training.rows import epoch_row, step_row
from training.tracking.metrics_log import Joiner, MetricsLog, epoch_rows, join, step_rows


def test_rows_come_back_as_they_were():
    journal = MetricsLog()
    rows = [step_row(1), step_row(2), epoch_row(1, dev_f1=1 / 3), {"kind": "test", "before": 0.25, "after": 2 / 3}]
    for row in rows:
        journal.add(row)
    assert step_rows(journal.lines) == rows[:2]
    assert epoch_rows(journal.lines) == [rows[2]]
    assert [json.loads(line) for line in journal.lines] == rows


def test_a_loss_that_is_no_number_is_valid_json_and_comes_back_as_nan():
    journal = MetricsLog()
    for loss in (math.nan, math.inf, -math.inf):
        journal.add(step_row(1, loss=loss))
        journal.add(epoch_row(1, loss=loss))
    for line in journal.lines:
        assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    assert all(math.isnan(row["loss"]) for row in step_rows(journal.lines) + epoch_rows(journal.lines))


def test_a_resumed_journal_goes_on_after_the_lines_it_was_given():
    first = MetricsLog()
    first.add(step_row(1))
    second = MetricsLog.load(first.lines)
    second.add(step_row(2))
    assert [row["step"] for row in step_rows(second.lines)] == [1, 2]
    assert len(first.lines) == 1


def test_a_joined_row_holds_sums_means_and_rates():
    joined = join([step_row(1, loss=4.0), step_row(2, loss=1.0), step_row(3, loss=1.0, seconds=0.25, host_s=0.0)])
    assert (joined["step"], joined["steps"], joined["loss"], joined["tokens"]) == (3, 3, 2.0, 300)
    assert joined["tokens_per_s"] == 300 / 0.5
    assert joined["padding_share"] == pytest.approx(0.2)
    assert joined["host_share"] == 0.025 / 0.5
    assert joined["step_seconds"] == pytest.approx(0.5 / 3)


def test_joining_joined_rows_is_joining_all_of_them():
    rows = [step_row(step, tokens=80 + step) for step in range(1, 8)]
    whole, parts = join(rows), join([join(rows[:2]), join(rows[2:])])
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == (value if isinstance(value, str) else pytest.approx(value)), name


def test_rows_are_joined_until_they_stand_for_the_time_wanted():
    joiner = Joiner(0.3)
    joined = [joiner.add(step_row(step)) for step in range(1, 9)]
    assert [row and row["steps"] for row in joined] == [None, None, 3, None, None, 3, None, None]
    assert joiner.rest()["steps"] == 2
    assert joiner.rest() is None


def test_steps_that_took_no_time_have_no_rate():
    assert join([step_row(1, seconds=0.0, host_s=0.0)])["tokens_per_s"] == 0
