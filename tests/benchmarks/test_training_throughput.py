"""The arithmetic and the bookkeeping of benchmarks/training_throughput.py; what it measures takes hours."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from agent.data import DataConfig
from agent.errors import DataError, TrainingError
from benchmarks.common.aim import Aim
from benchmarks.trainer_comparison import workbench
from benchmarks.trainer_comparison.base import Contestant, write_samples
from benchmarks.trainer_comparison.comparison_aims import find_aims
from benchmarks.trainer_comparison.f1_over_time import f1_at, race, ratio, time_to, together
from benchmarks.trainer_comparison.ours import Ours
from benchmarks.trainer_comparison.summary import curve_lines, finite, rates, row, scaling, scaling_lines
from benchmarks.trainer_comparison.trainer import Trainer
from benchmarks.trainer_comparison.workbench import Workbench

ROOT = Path(__file__).resolve().parents[2]
CURVE = [(10.0, 0.6), (20.0, 0.9), (30.0, 0.8)]
DATA = DataConfig(path="demo")


class Short(Contestant):
    """A contestant that the tests' own program measures."""

    kind: Literal["short"] = "short"

    @property
    def name(self):
        return "short"

    def measure(self, data):
        raise AssertionError("the program does it")


@pytest.mark.parametrize(("goal", "seconds"), [(0.3, 5.0), (0.6, 10.0), (0.75, 15.0), (0.9, 20.0), (0.91, math.inf)])
def test_the_time_to_a_score_lies_on_the_line_through_the_points(goal, seconds):
    assert time_to(CURVE, goal) == pytest.approx(seconds)


@pytest.mark.parametrize(("seconds", "score"), [(0, 0.0), (5, 0.3), (15, 0.75), (25, 0.9), (99, 0.9)])
def test_the_score_at_a_time_is_the_best_until_then(seconds, score):
    assert f1_at(CURVE, seconds) == pytest.approx(score)


def test_a_goal_that_ours_never_reaches_is_missed_and_one_that_only_the_rival_misses_is_met():
    assert ratio(math.inf, 3.0) == ratio(math.inf, math.inf) == math.inf
    assert ratio(3.0, math.inf) == 0
    assert ratio(3.0, 6.0) == 0.5


def test_the_first_steps_count_only_in_the_figure_of_the_whole_pass():
    found = rates([(9.0, 10, 100, 120)] * 3 + [(1.0, 10, 100, 120), (3.0, 30, 300, 360)])
    assert found["sentences_per_s"] == 10
    assert found["tokens_per_s"] == 100
    assert found["padded_tokens_per_s"] == 120
    assert found["pass_sentences_per_s"] == pytest.approx(70 / 31)


def test_a_measurement_of_warm_up_alone_is_refused():
    with pytest.raises(DataError, match=r"3 steps.*do not count.*more sentences"):
        rates([(1.0, 1, 1, 1)] * 3)


def kept(speed, **result):
    steps = [(1.0, speed, 10 * speed, 20 * speed)] * 4
    return {
        "result": {"steps": steps, "precision": "bf16", **result},
        "memory": {"together": 2, "largest": 1},
        "others_before": 0.0,
        "others_during": 0.0,
        "process_seconds": 9.0,
    }


def test_a_row_holds_the_median_its_spread_and_the_use_of_the_ceiling_by_real_tokens():
    found = row("x", [kept(5), kept(30), kept(10)], gflops=1.2e-3, parameters=1000)
    assert found["sentences_per_s"] == 10
    assert found["sentences_per_s_spread"] == [5, 30]
    assert found["padding_share"] == 0.5
    assert found["mfu"] == pytest.approx(6 * 1000 * 100 / 1.2e6)
    assert found["mfu_with_padding"] == pytest.approx(2 * found["mfu"])
    assert "mfu" not in row("x", [kept(5)], gflops=None, parameters=None)


def test_an_aim_is_a_line_that_says_met_missed_or_not_measured():
    assert str(Aim("speed", 2.0, 1.5)) == "aim speed: 2.000 (aim at least 1.5) met"
    assert str(Aim("speed", 1.0, 1.5)) == "aim speed: 1.000 (aim at least 1.5) missed"
    assert str(Aim("time", math.inf, 1.5, at_least=False)) == "aim time: inf (aim at most 1.5) missed"
    assert str(Aim("speed", None, 1.5)) == "aim speed: not measured (aim at least 1.5)"


def test_ours_takes_part_with_its_default_batch_and_rivals_with_their_fastest():
    def entry(stage, contestant, speed):
        return {"stage": stage, "contestant": contestant, "sentences_per_s": speed}

    rows = [
        *(entry("article", {}, speed) for speed in (8.0, 10.0)),
        *(entry("trainer", {"batch": batch}, speed) for batch, speed in ((16, 90.0), (64, 100.0))),
        *(entry("ours", {"tokens": tokens, "workers": 1}, speed) for tokens, speed in ((1024, 120.0), (2048, 500.0))),
        *(entry("workers", {"tokens": 1024, "workers": workers}, speed) for workers, speed in ((1, 50.0), (2, 95.0))),
    ]
    measured = {aim.name: aim.measured for aim in find_aims(rows, None, tokens=1024, workers_tokens=(1024, 2048))}
    assert measured["sentences/s over the article's loop"] == 12
    assert measured["sentences/s over Trainer"] == 1.2
    assert measured["sentences/s of two workers over one, 1,024 tokens"] == 1.9
    assert measured["sentences/s of two workers over one, 2,048 tokens"] is None
    assert measured["test F1"] is None


def test_the_race_is_run_at_the_learning_rate_that_was_best_in_one_epoch():
    asked = []

    def ask(contestant):
        asked.append(contestant)
        score = {1e-4: 0.7, 2e-4: 0.8}[contestant.learning_rate]
        return kept(5, points=[(10.0 * contestant.epochs, score + contestant.epochs / 20)], test_f1=score)

    found = race(ask, [(Trainer(batch=32, epochs=3), (1e-4, 2e-4)), (Ours(epochs=3), (2e-4, 1e-4))])
    assert [(contestant.kind, contestant.epochs) for contestant in asked].count(("ours", 3)) == 1
    assert found["trainer"]["learning_rate"] == found["ours"]["learning_rate"] == 2e-4
    assert found["ours"]["test_f1"] == 0.8
    assert found["seconds_to_goal_ratio"] == found["seconds_ratio"] == 1
    assert race(lambda _: None, [(Trainer(batch=32, epochs=3), (1e-4,)), (Ours(epochs=3), (1e-4,))]) is None


def test_a_learning_rate_that_is_given_alone_is_taken_untried():
    asked = []

    def ask(contestant):
        asked.append((contestant.kind, contestant.learning_rate, contestant.epochs))
        return kept(5, points=[(10.0, 0.95)], test_f1=0.9)

    assert (
        race(ask, [(Trainer(batch=32, epochs=3), (1e-4,)), (Ours(epochs=3), (2e-4,))])["ours"]["learning_rate"] == 2e-4
    )
    assert asked == [("trainer", 1e-4, 3), ("ours", 2e-4, 3)]


def test_races_of_several_seeds_are_told_by_mean_scores_and_median_ratios():
    def ask(contestant):
        seconds = 10.0 + 10 * contestant.seed if contestant.kind == "ours" else 40.0
        return kept(5, points=[(seconds, 0.9)], test_f1=0.8 + contestant.seed / 10)

    races = [
        race(ask, [(Trainer(batch=32, epochs=3, seed=seed), (1e-4,)), (Ours(epochs=3, seed=seed), (1e-4,))])
        for seed in range(3)
    ]
    found = together(races)
    assert found["ours"]["test_f1"] == found["trainer"]["test_f1"] == pytest.approx(0.9)
    assert found["seconds_ratio"] == found["seconds_to_goal_ratio"] == 0.5
    assert [one["ours"]["seed"] for one in found["races"]] == [0, 1, 2]
    assert any("seed 2" in text for text in curve_lines(found))


def test_the_gain_of_independent_processes_is_told_as_the_ceiling_of_workers():
    one, two = ({"result": {"gflops": speed, "sentences_per_s": speed / 2}} for speed in (200.0, 300.0))
    gains = scaling([one], [two, two])
    assert gains["gflops_gain"] == gains["sentences_per_s_gain"] == 1.5
    aim = Aim("sentences/s of two workers over one, 1,024 tokens", 1.2, 1.8)
    assert "two workers reach 80%" in " ".join(scaling_lines({"1024": gains}, [aim]))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A workbench whose program answers with its environment, counts its starts, and fails on demand."""
    monkeypatch.setattr(workbench, "PAUSE_S", 0.01)
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, pathlib, sys\n"
        "order = json.loads(pathlib.Path(sys.argv[1].removeprefix('measure=')).read_text())\n"
        "if order['order']['contestant']['threads'] == 99: sys.exit('no such cores')\n"
        f"pathlib.Path({str(tmp_path / 'starts')!r}).open('a').write('x')\n"
        "pathlib.Path(order['answer']).write_text(json.dumps(dict(os.environ)))\n"
    )
    return Workbench(tmp_path / "kept", program, accept_doubtful=True)


def test_what_was_measured_is_not_measured_again_unless_something_of_it_changes(bench, tmp_path):
    first = bench.run(Short(), DATA)
    assert bench.run(Short(), DATA) == bench.found(Short(), DATA) == first
    assert (tmp_path / "starts").read_text() == "x"
    assert bench.found(Short(), DATA, 1) is None
    assert bench.found(Short(threads=3), DATA) is None
    other = DataConfig(path="demo", max_examples=5)
    assert bench.found(Short(), other) is None
    bench.run(Short(), other)
    assert bench.found(Short(), DATA) == first


def test_no_setting_of_the_caller_decides_how_threads_wait(bench, monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "7")
    found, brief = (bench.run(Short(waiting=waiting), DATA)["result"] for waiting in ("as installed", "briefly"))
    assert found["OMP_NUM_THREADS"] == "2"
    assert {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "RAY_ADDRESS"} & set(found) == set()
    assert brief["GOMP_SPINCOUNT"] == "1000"
    assert "OMP_NUM_THREADS" not in Ours().environment()


def test_a_measurement_that_fails_names_itself_and_its_log(bench):
    with pytest.raises(TrainingError, match=r"short ended with status 1 \(no such cores\).*read .*\.log"):
        bench.run(Short(threads=99), DATA)
    assert bench.found(Short(threads=99), DATA) is None


def test_a_measurement_beside_busy_neighbours_is_doubted():
    assert workbench.doubt({"others_before": 0.02, "others_during": 0.09}) == ""
    said = workbench.doubt({"others_before": 0.02, "others_during": 0.5})
    assert said == " (DOUBTFUL: others took 2% of this machine before, 50% meanwhile)"


def test_what_is_doubtful_counts_only_if_that_is_accepted(bench, tmp_path):
    bench.run(Short(), DATA)
    (file,) = (tmp_path / "kept").glob("*.json")
    strict = Workbench(tmp_path / "kept", tmp_path / "program.py", accept_doubtful=False)
    for busy, counts in ((0.0, True), (0.9, False)):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"others_before": 0.0, "others_during": busy}))
        assert bench.found(Short(), DATA)
        assert bool(strict.found(Short(), DATA)) == counts


def test_a_watch_tells_the_memory_and_the_work_of_a_process_from_those_of_others():
    watch = workbench.ProcessMonitor()
    program = "import time; kept = b'x' * 300_000_000; begun = time.time()\nwhile time.time() < begun + 3: pass"
    watch.wait(subprocess.Popen([sys.executable, "-c", program]))
    alone = watch.figures()
    assert 3e8 < alone["memory"]["largest"] <= alone["memory"]["together"] < 4e8
    watch = workbench.ProcessMonitor()
    neighbour = subprocess.Popen([sys.executable, "-c", program])
    watch.wait(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3)"]))
    neighbour.wait()
    assert watch.figures()["others_during"] > 0.6 / os.cpu_count()


def test_trainer_s_clock_counts_the_seconds_of_each_step_and_leaves_looks_at_dev_out(monkeypatch):
    from benchmarks.trainer_comparison import trainer_process

    looked, now = [], [0.0]
    monkeypatch.setattr(trainer_process, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Slow:
        def look(self, seconds):
            looked.append(seconds)
            now[0] += 64.0

    clock = trainer_process.Clock(Trainer(batch=4, looks_per_epoch=1), 8, Slow())
    clock.on_train_begin()
    for step in (1, 2, 3):
        now[0] += step
        clock.on_step_end(None, SimpleNamespace(global_step=step))
    assert clock.seconds == [1, 2, 3]
    assert looked == [1 + 2]


def test_samples_hold_all_sentences_and_a_part_of_the_same(tmp_path):
    whole, part = write_samples(DataConfig(path="demo", max_examples=150), tmp_path, size=120)
    lines = [(Path(sample.path) / "train.jsonl").read_text().splitlines() for sample in (whole, part)]
    assert [len(found) for found in lines] == [150, 120]
    assert set(lines[1]) <= set(lines[0])
    assert len((Path(whole.path) / "dev.jsonl").read_text().splitlines()) == 100


def test_json_has_null_where_a_number_is_not_finite():
    assert json.dumps(finite({2: (math.inf, 1.0), "x": math.nan}), allow_nan=False) == '{"2": [null, 1.0], "x": null}'


def test_without_measurements_the_program_says_so_for_every_aim(tmp_path):
    program = ROOT / "benchmarks/training_throughput.py"
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, program, "data.path=demo", "stages=[]", f"workdir={tmp_path}", f"result={result}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    aims = json.loads(result.read_text())["aims"]
    assert done.stdout.count("not measured") == len(aims) == 8
    assert all(aim["met"] is None for aim in aims)


def test_what_earlier_runs_have_found_of_other_stages_stays_in_the_result(tmp_path):
    program, result = ROOT / "benchmarks/training_throughput.py", tmp_path / "result.json"
    command = [
        sys.executable,
        program,
        "data.path=demo",
        "stages=[]",
        f"workdir={tmp_path / 'work'}",
        f"result={result}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    empty = json.loads(result.read_text())
    article = row("article's loop", [kept(5)], gflops=None, parameters=None) | {"stage": "article", "contestant": {}}
    ours = row("ours", [kept(60)], gflops=None, parameters=None) | {"stage": "ours", "contestant": {"tokens": 1024}}
    for machine, met in ((empty["machine"], True), ("another", None)):
        result.write_text(json.dumps(empty | {"rows": [article, ours], "machine": machine}))
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        after = json.loads(result.read_text())
        assert len(after["rows"]) == (2 if met else 0)
        assert after["aims"][0]["met"] == met or after["aims"][0]["measured"] is None
        assert ("article is of an earlier run" in told) == bool(met)
