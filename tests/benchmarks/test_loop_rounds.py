"""The benchmark of the loop: how data is cut, who lies, and what the chart and the aims show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.feedback_loop.bandit_stream import Callers, cut
from benchmarks.feedback_loop.loop_chart import draw
from benchmarks.feedback_loop.loop_rounds import CHECKED, FAULTS, LoopBenchmarkConfig, find_aims

INTENTS = [f"intent-{number}" for number in range(8)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, count in {"train": 400, "test": 40}.items():
        rows = [{"text": f"{name} {number}", "label": INTENTS[number % 8]} for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_half_of_the_intents_come_late_and_no_text_comes_twice(data: Path) -> None:
    stream = cut(data, share=0.2, rounds=4, size=40, seed=0)
    assert len(stream.labelled) == 80
    assert min(Counter(row["label"] for row in stream.labelled).values()) >= 5
    batches = [stream.batch(number, 4, 40) for number in (1, 2, 3, 4, 5)]
    intents = [{row["label"] for row in batch} for batch in batches]
    assert [len(batch) for batch in batches] == [40] * 5
    assert len(intents[0] | intents[1]) == 4
    assert intents[2] == set(INTENTS)
    texts = [row["text"] for batch in [stream.labelled, *batches] for row in batch]
    assert len(set(texts)) == len(texts)
    assert cut(data, share=0.2, rounds=4, size=40, seed=0) == stream


def test_lying_callers_say_the_opposite_of_what_is_right() -> None:
    callers = Callers(10, lying=3)
    told = {callers.name(place): callers.tells(place, right=True) for place in range(20)}
    assert [name for name, says in told.items() if not says] == ["caller-00", "caller-01", "caller-02"]
    assert [callers.tells(place, right=False) for place in range(10)] == [True] * 3 + [False] * 7


def result(tmp_path: Path) -> dict[str, Any]:
    def found(decision: str, **feedback: Any) -> dict[str, Any]:
        return {"decision": decision, "why": "", "feedback": feedback}

    rounds = [
        {"round": 1, "asked": 10, "loop": 0.5, "loop, best answers": 0.6, "no loop": 0.6, "test accuracy": 0.7, **found("published")},
        {"round": 2, "asked": 10, "loop": 0.6, "loop, best answers": 0.7, "no loop": 0.5, "test accuracy": 0.7, **found("refused")},
        {"round": 3, "asked": 10, "loop": 0.7, "loop, best answers": 0.8, "no loop": 0.5, "test accuracy": 0.695, **found("published")},
    ]  # fmt: skip
    faults = {name: found("refused") for name in FAULTS if name != CHECKED}
    left_out = {"of caller caller-00: x": 8, "of caller caller-01: x": 8, "kept for judging by the log": 3}
    return {
        "config": LoopBenchmarkConfig(data=str(tmp_path), rounds=4).model_dump(), "first agent": 0.6, "rounds": rounds,
        "faults": faults | {CHECKED: found("published", left_out=left_out)}, "supervised": 0.75,
    }  # fmt: skip


def test_aims_go_by_promotions_and_by_the_faults_that_should_be_refused(tmp_path: Path) -> None:
    aims = {aim.name: aim.measured for aim in find_aims(result(tmp_path))}
    assert list(aims.values()) == [
        pytest.approx(0.695 / 0.75), pytest.approx(-0.005), 1, pytest.approx(2 / 3)
    ]  # fmt: skip


def test_the_chart_is_the_same_for_the_same_result(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one", "two"):
        draw(result(tmp_path), tmp_path / f"{name}.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert b"<svg" in (tmp_path / "one.svg").read_bytes()
