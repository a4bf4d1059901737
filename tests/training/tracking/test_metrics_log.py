"""The log keeps every row as JSON; aggregated rows say what their parts say together."""

import json
import math

import pytest

from tests.training.rows import epoch_row, step_row
from training.tracking.metrics_log import MetricsLog, StepAggregator, aggregate, step_rows


def test_rows_come_back_as_they_were():
    log = MetricsLog()
    rows = [step_row(1), step_row(2), epoch_row(1, dev_score=1 / 3), {"kind": "test", "before": 0.25, "after": 2 / 3}]
    for row in rows:
        log.add(row)
    assert step_rows(log.lines) == rows[:2]
    assert [json.loads(line) for line in log.lines] == rows


def test_a_loss_that_is_no_number_is_valid_json_and_comes_back_as_nan():
    log = MetricsLog()
    for loss in (math.nan, math.inf, -math.inf):
        log.add(step_row(1, loss=loss))
        log.add(epoch_row(1, loss=loss))
    for line in log.lines:
        assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    assert all(math.isnan(row["loss"]) for row in step_rows(log.lines))


def test_a_resumed_log_goes_on_after_the_lines_it_was_given():
    first = MetricsLog()
    first.add(step_row(1))
    second = MetricsLog.load(first.lines)
    second.add(step_row(2))
    assert [row["step"] for row in step_rows(second.lines)] == [1, 2]
    assert len(first.lines) == 1


def test_an_aggregated_row_holds_sums_means_and_rates():
    aggregated = aggregate(
        [step_row(1, loss=4.0), step_row(2, loss=1.0), step_row(3, loss=1.0, seconds=0.25, host_s=0.0)]
    )
    assert (aggregated["step"], aggregated["steps"], aggregated["loss"], aggregated["tokens"]) == (3, 3, 2.0, 300)
    assert aggregated["tokens_per_s"] == 300 / 0.5
    assert aggregated["padding_share"] == pytest.approx(0.2)
    assert aggregated["host_share"] == 0.025 / 0.5
    assert aggregated["step_seconds"] == pytest.approx(0.5 / 3)


def test_aggregating_aggregated_rows_is_aggregating_all_of_them():
    rows = [step_row(step, tokens=80 + step) for step in range(1, 8)]
    whole, parts = aggregate(rows), aggregate([aggregate(rows[:2]), aggregate(rows[2:])])
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == (value if isinstance(value, str) else pytest.approx(value)), name


def test_rows_are_aggregated_until_they_stand_for_the_time_wanted():
    aggregator = StepAggregator(0.3)
    aggregated = [aggregator.add(step_row(step)) for step in range(1, 9)]
    assert [row and row["steps"] for row in aggregated] == [None, None, 3, None, None, 3, None, None]
    assert aggregator.flush()["steps"] == 2
    assert aggregator.flush() is None


def test_steps_that_took_no_time_have_no_rate():
    assert aggregate([step_row(1, seconds=0.0, host_s=0.0)])["tokens_per_s"] == 0
