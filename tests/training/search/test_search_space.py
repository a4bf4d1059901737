"""Ranges of a search: how they are written, drawn and refused. No Ray."""

from __future__ import annotations

import math

import pytest

from agent.config.base import load
from agent.config.nested import flatten
from agent.config.search_ranges import draw, parse_range
from agent.errors import ClusterError, ConfigError
from training.config import TrainingConfig
from training.search.hyperparameter_search import plan_trials
from training.search.search_config import TuneConfig
from training.search.search_record import SearchRecord, Trial, render_table


def configured(*arguments):
    return load(TuneConfig, arguments)


def rates(trials):
    return [trial.settings["optimizer.learning_rate"] for trial in trials]


def test_the_default_space_gives_trials_that_differ_within_its_ranges():
    trials = configured("num_trials=200").trials()
    assert {trial.settings["batch.tokens"] for trial in trials} == {512, 1024, 2048}
    assert all(5e-5 <= rate <= 5e-4 for rate in rates(trials))
    middle = math.sqrt(5e-5 * 5e-4)  # where half of a log-uniform draw lies, against a ninth of a uniform one
    assert 70 < sum(rate < middle for rate in rates(trials)) < 130


def test_the_seed_alone_tells_what_is_tried_and_more_trials_keep_the_first_ones():
    assert configured("num_trials=4").trials() == configured("num_trials=9").trials()[:4]
    assert configured("seed=1").trials() != configured("seed=2").trials()


def test_both_ends_of_int_are_drawn_and_uniform_stays_inside():
    ranges = {"a": parse_range("int(2, 4)"), "b": parse_range("uniform(0.1, 0.10001)")}
    drawn = [draw(ranges, seed=0, number=number) for number in range(60)]
    assert {settings["a"] for settings in drawn} == {2, 3, 4}
    assert all(0.1 <= settings["b"] <= 0.10001 for settings in drawn)


def test_keys_may_stand_dotted_or_nested():
    nested = {"optimizer": {"learning_rate": "uniform(1e-5, 1e-4)"}, "batch.tokens": "choice(64, 128)"}
    assert set(flatten(nested)) == {"optimizer.learning_rate", "batch.tokens"}
    given = configured("space.optimizer.kind=choice(adamw, sgd)", "space.model.dropout=choice(0.0, 0.1)")
    assert set(given.ranges) == {"optimizer.kind", "model.dropout"}


def test_values_of_a_choice_are_yaml_and_powers_of_ten_are_numbers():
    assert parse_range("choice(512, 5e-5, adamw, true)").values == (512, 5e-5, "adamw", True)


def test_a_trial_is_the_given_run_with_its_settings():
    arguments = ["epochs=7", "model.dropout=0.2", "optimizer.kind=sgd", "optimizer.momentum=0.5"]
    config = configured(*arguments, "space.optimizer.learning_rate=uniform(0.1, 0.2)", "num_trials=3")
    assert config.trained_with({}) == load(TrainingConfig, arguments)
    assert config.trained_with({"optimizer.learning_rate": 0.15}) == load(
        TrainingConfig, [*arguments, "optimizer.learning_rate=0.15"]
    )


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("uniform(1, 1)", "low < high"),
        ("loguniform(0, 1)", "0 < low < high"),
        ("int(1.5, 3)", "two whole numbers"),
        ("uniform(1)", "two numbers"),
        ("uniform(1, .inf)", "finite"),
        ("choice()", "needs values"),
        ("choice(64, 64)", "each once"),
        ("normal(0, 1)", "loguniform"),
        ("512", "loguniform"),
        ("choice(64", "loguniform"),
    ],
)
def test_a_bad_range_is_refused_by_its_key(written, told):
    with pytest.raises(ConfigError, match=rf"space\.batch\.tokens=.*{told}"):
        configured(f"space.batch.tokens='{written}'")


def test_a_search_without_a_range_is_refused():
    with pytest.raises(ConfigError, match="nothing to search"):
        configured("space={}")


@pytest.mark.parametrize("key", ["output", "epochs", "data.path", "num_workers", "task.labels"])
def test_what_trials_must_have_in_common_is_not_searched(key):
    with pytest.raises(ConfigError, match=f"space.{key}=.*the same for all trials"):
        configured(f"space.{key}=choice(a, b)")


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (
            "space.optimizer.learning_rat=uniform(0, 1)",
            "unknown key 'optimizer.learning_rat' .did you mean optimizer.l",
        ),
        ("space.batch.tokens=int(2, 99999)", "batch.tokens=2: .*greater than or equal to 16"),
        ("space.optimizer.kind=choice(adamw, adamx)", "optimizer.*adamx"),
        ("space.model.dropout=uniform(0.0, 1.0)", "model.dropout=1.0.*less than 1"),
    ],
)
def test_a_key_that_does_not_exist_or_an_end_that_it_does_not_take_is_refused_by_name(argument, told):
    with pytest.raises(ConfigError, match=f"space, where it gives .*: {told}"):
        configured(argument).trials()


@pytest.mark.parametrize(
    ("arguments", "nodes", "expected"),
    [
        ([], [{"CPU": 8}], (1, 8, 1)),
        (["max_concurrent=2"], [{"CPU": 8}], (1, 4, 2)),
        (["num_workers=2", "max_concurrent=2"], [{"CPU": 8}], (2, 2, 2)),
        ([], [{"CPU": 32, "GPU": 4}], (1, 4, 4)),
        (["num_workers=2"], [{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], (2, 4, 2)),
        (["max_concurrent=2"], [{"CPU": 32, "GPU": 4}], (2, 4, 2)),
        (["num_trials=1"], [{"CPU": 32, "GPU": 4}], (4, 4, 1)),
    ],
)
def test_trials_at_a_time_share_the_cluster(arguments, nodes, expected):
    plan, at_once = plan_trials(configured(*arguments), nodes)
    assert (plan.num_workers, plan.cpus_per_worker, at_once) == expected
    assert plan.use_gpu == ("GPU" in nodes[0])


@pytest.mark.parametrize("nodes", [[{"CPU": 2}], [{"CPU": 64, "GPU": 2}]])
def test_more_trials_at_a_time_than_fit_are_refused(nodes):
    with pytest.raises(ClusterError, match=r"3 trial\(s\) at a time with 1 worker\(s\) each do not fit"):
        plan_trials(configured("max_concurrent=3"), nodes)


def test_only_finished_trials_can_be_the_best_and_the_table_begins_with_it():
    trials = (
        Trial(number=1, settings={"batch.tokens": 64}, state="stopped", epochs={1: 0.9}),
        Trial(number=2, settings={"batch.tokens": 128}, state="finished", epochs={1: 0.3, 2: 0.8}),
        Trial(number=3, settings={"batch.tokens": 256}, state="finished", epochs={1: 0.8, 2: 0.7}),
        Trial(number=4, settings={"batch.tokens": 512}, state="failed", failure="the loss | exploded"),
    )
    record = SearchRecord(config={}, data_digest="", trials=trials)
    assert record.best == trials[1]
    assert render_table(record) == [
        "| trial | batch.tokens | epochs | dev, best epoch |",
        "|---|---:|---:|---:|",
        "| **2, the best** | 128 | 2 | 0.8000 |",
        "| 1, stopped | 64 | 1 | 0.9000 |",
        "| 3, finished | 256 | 2 | 0.8000 |",
        r"| 4, failed: the loss \| exploded | 512 | 0 |  |",
    ]
