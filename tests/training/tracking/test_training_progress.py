"""What a run shows while it goes."""

import re
import time

import pytest

from tests.training.rows import step_row
from training.tracking.training_progress import TrainingProgress, duration

PATTERN = r"epoch (\S+)  step (\d+)/(\d+)  loss (\S+)  ([\d,]+) tokens/s  padding (\S+)%  (?:(\d+) min )?(\d+) s left"


def shown(capsys):
    return [re.fullmatch(PATTERN, line) for line in capsys.readouterr().out.splitlines()]


def test_a_log_gets_a_line_for_every_ten_seconds(capsys):
    with TrainingProgress(400, show=True, interactive=False) as progress:
        for step in range(1, 251):
            progress.advance(step_row(step))
    lines = shown(capsys)
    assert [line[2] for line in lines] == ["80", "160", "240"]
    assert lines[0].groups() == ("8.00", "80", "400", "0.1241", "800", "20.0", None, "40")


def test_the_rate_and_the_time_left_are_those_of_the_last_half_minute(capsys):
    with TrainingProgress(1000, show=True, interactive=False) as progress:
        for step in range(1, 201):
            progress.advance(step_row(step, seconds=1.0))
        for step in range(201, 521):
            progress.advance(step_row(step))
    assert shown(capsys)[-1].group(2, 5, 7, 8) == ("520", "800", "1", "0")  # 480 steps of an eighth of a second


def test_a_resumed_run_counts_on_and_foresees_only_what_is_left(capsys):
    with TrainingProgress(400, show=True, interactive=False, done=200) as progress:
        for step in range(201, 281):
            progress.advance(step_row(step))
    assert shown(capsys)[0].group(2, 3, 8) == ("280", "400", "15")


def test_other_workers_show_nothing(capsys):
    with TrainingProgress(300, show=False, interactive=True) as progress:
        for step in range(1, 251):
            progress.advance(step_row(step))
        progress.print_line("epoch 1")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize("done", [0, 100])
def test_a_terminal_gets_a_bar_that_ends_with_all_steps(capsys, done):
    with TrainingProgress(300, show=True, interactive=True, done=done) as progress:
        for step in range(done + 1, 301):
            progress.advance(step_row(step, seconds=0.03125))
    bar = capsys.readouterr().err
    assert "300/300" in bar
    assert re.search(r"epoch 30\.00, loss 0\.\d+, 3,200 tokens/s, padding 20\.0%", bar)
    assert bar.count("\r") < 200  # joined, not one for every step


def test_a_step_pays_next_to_nothing(capsys):
    rows = [step_row(step) for step in range(1, 10_001)]
    with TrainingProgress(10_000, show=True, interactive=True) as progress:
        begun = time.process_time()
        for row in rows:
            progress.advance(row)
        assert (time.process_time() - begun) / len(rows) < 50e-6 * 10  # 2 to 20 us on a quiet machine


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words
