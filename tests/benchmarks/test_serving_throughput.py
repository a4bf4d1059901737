"""The arithmetic, the table and the picture of benchmarks/serving_throughput.py, and one real rival on a tiny agent from end to end."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.bundle import Bundle
from agent.errors import ConfigError
from benchmarks.common.load_generator import Answer
from benchmarks.common.server_process import Server, ServerError, running
from benchmarks.load.figures import aims, best, medians, ratio, single
from benchmarks.load.session_ceiling import measure
from benchmarks.load.show import draw, table
from benchmarks.load.visit import CURVE, Plan, Visit, entities, percentile, summary, with_tail
from benchmarks.rivals.installation import NotInstalledError, python_of
from benchmarks.rivals.roster import MLSERVER, Entrant, roster
from benchmarks.serving_throughput import ServingBenchmark, chosen, main
from serving.inference.engine import Engine
from tests.serving.tiny import TEXTS, make_bundle


def point(per_s: float, *, p50_s: float = 0.02, **errors: int) -> dict[str, Any]:
    cores = {"callers": 0.1, "others": 0.0}
    return {"per_s": per_s, "p50_s": p50_s, "p99_s": 3 * p50_s, "errors": errors, "cores": cores}


def figures(per_s: float, *, batches: float = 10, lone_s: float = 0.004) -> dict[str, Any]:
    return {
        "lone": point(100, p50_s=lone_s),
        "single": point(per_s),
        "batch": point(batches),
        "curve": {str(callers): point(per_s, e503=1) for callers in CURVE},
        "half": point(per_s / 2, p50_s=0.003),
        "tail": point(per_s, p50_s=0.03),
        "memory_bytes": 1000,
    }


def entrant(name: str, *rounds: dict[str, Any], status: str = "measured") -> dict[str, Any]:
    about = {
        "name": name,
        "label": name.title(),
        "ours": name.startswith("ours"),
        "status": status,
        "rounds": list(rounds),
    }
    return about | ({"median": medians(rounds)} if rounds else {})


@pytest.fixture
def result() -> dict[str, Any]:
    ceiling = {"single_texts_per_s": 1000.0, "sorted_texts_per_s": 800.0, "bare_p50_s": 0.002}
    entrants = {
        "ours": entrant("ours", figures(600, batches=20), figures(1200, batches=20)),
        "ours-one-replica": entrant("ours-one-replica", figures(400), figures(800)),
        "slow": entrant("slow", figures(200, lone_s=0.002), figures(400, lone_s=0.002)),
        "fast": entrant("fast", figures(300), figures(600)),
        "absent": entrant("absent", status="not installed: no wheel"),
    }
    return {
        "machine": "a machine",
        "data": "texts",
        "entrants": entrants,
        "ceilings": {"median": ceiling, "rounds": [ceiling] * 2},
    }


def test_a_rate_counts_what_ended_between_the_lead_and_the_end_and_errors_apart():
    answers = [Answer(200, 0.1, number / 10) for number in range(100)]
    answers += [Answer(503, 0.1, 5.0), Answer("TimeoutError", 60.0, 5.0)]
    found = summary(answers, 10.0, lead=0.2)
    assert found["per_s"] == pytest.approx(10, rel=0.02)
    assert (found["answered"], found["errors"]) == (100, {"503": 1, "TimeoutError": 1})
    assert found["p50_s"] == found["p99_s"] == 0.1


def test_a_rate_of_nothing_is_zero_and_has_no_latency():
    assert summary([Answer(500, 0.1, 0.0)], 1.0, lead=0.2) == {
        "per_s": 0.0, "answered": 0, "errors": {"500": 1}, "p50_s": None, "p99_s": None,
    }  # fmt: skip


@pytest.mark.parametrize(("part", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_a_percentile_is_the_smallest_value_that_covers_its_part(part: float, value: float):
    assert percentile([float(number) for number in range(1, 101)], part) == value


def test_every_twentieth_text_of_the_tail_mix_has_400_words_and_the_others_stay():
    texts = [f"text number {number} of several words" for number in range(200)]
    mixed = with_tail(texts)
    assert [place for place, text in enumerate(mixed) if len(text.split()) == 400] == list(range(0, 200, 20))
    assert sum(one == other for one, other in zip(texts, mixed, strict=True)) == 190


def test_figures_are_medians_over_the_rounds_with_their_spread_and_all_errors():
    found = medians([figures(100), figures(300), figures(200)])
    assert found["single_requests_per_s"] == {"median": 200, "low": 100, "high": 300}
    assert found["batch_texts_per_s"]["median"] == 320
    assert [place["in_flight"] for place in found["curve"]] == sorted({1, 32, *CURVE})
    assert found["errors"] == {"e503": 3 * len(CURVE)}


def test_the_best_rival_is_not_ours_and_ratios_are_taken_round_by_round(result: dict[str, Any]):
    entrants = result["entrants"]
    assert best(entrants, single) == "fast"
    assert best(entrants, lambda found: found["lone"]["p50_s"], lowest=True) == "slow"
    assert ratio(entrants["ours"]["rounds"], entrants["fast"]["rounds"], single) == 2.0
    assert ratio(entrants["ours"]["rounds"], [], single) is None


def test_aims_compare_ours_with_the_best_rival_and_the_ceilings_of_the_same_round(result: dict[str, Any]):
    found = aims(result["entrants"], result["ceilings"]["rounds"])
    assert [round(aim.measured or -1, 3) for aim in found] == [2.0, 2.0, 0.9, 1.5, 2.0, 0.8, 2.0, 4.5, 1.5]
    assert [aim.met for aim in found] == [True, True, True, False, True, False, False, True, True]
    assert str(found[3]) == "aim single texts, over one replica on one core: 1.500 (aim at least 1.9) missed"


def test_aims_are_not_measured_without_ours_or_without_rivals(result: dict[str, Any]):
    entrants = result["entrants"]
    rivals = {name: found for name, found in entrants.items() if not name.startswith("ours")}
    assert all(aim.measured is None for aim in aims(rivals, result["ceilings"]["rounds"]))
    alone = aims({"ours": entrants["ours"]}, [])
    assert [aim.name for aim in alone if aim.measured is not None] == [
        "p50 of short texts beside 5% of 400 words, over that without"
    ]


def test_the_table_shows_the_fastest_first_and_why_a_server_is_absent(result: dict[str, Any]):
    lines = table(result)
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "**Ours**", "**Ours-One-Replica**", "Fast", "Slow", "Absent", "the same sessions in process, no HTTP, no tokenising",
    ]  # fmt: skip
    assert lines[2] == "| **Ours** | 900 (12 errors) | 20.0 / 60.0 | 4.0 | 640 |"
    assert "not installed: no wheel" in lines[6]
    assert len({line.count("|") for line in lines}) == 1


def test_the_picture_names_every_server_that_was_measured_and_is_the_same_again(result: dict[str, Any], tmp_path: Path):
    pytest.importorskip("matplotlib")
    draw(result, tmp_path / "one.svg")
    draw(result, tmp_path / "two.svg")
    drawn = (tmp_path / "one.svg").read_text()
    assert all(f"<!-- {label} -->" in drawn for label in ("Ours", "Fast", "Slow"))
    assert "<!-- Absent -->" not in drawn
    assert drawn == (tmp_path / "two.svg").read_text()


def test_every_server_of_the_roster_has_its_module_and_a_name_of_its_own():
    names = [one.name for one in roster()]
    assert len(set(names)) == len(names)
    for one in roster():
        if one.command[0] == "-m":
            assert importlib.util.find_spec(one.command[1]) is not None
    with pytest.raises(ConfigError, match=r"mosek.*mosec-unbatched"):
        chosen(("mosek",))


def test_answers_of_mlserver_are_those_of_each_text():
    one, none = [{"entity_group": "PER", "start": 0, "end": 4}], []
    several = {"outputs": [{"data": [json.dumps(one), json.dumps(none)]}]}
    assert MLSERVER.answers(several, ["Anna", "x"]) == [one, none]
    assert MLSERVER.answers({"outputs": [{"data": [json.dumps(one[0])]}]}, "Anna") == [one]
    assert MLSERVER.answers({"outputs": [{"data": []}]}, "x") == [none]
    assert [json.loads(MLSERVER.body(inputs))["inputs"][0]["name"] for inputs in ("Anna", ["Anna"])] == [
        "args", "array_inputs",
    ]  # fmt: skip


def test_a_rival_that_does_not_install_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    rival = Entrant("nobody", "Nobody", ("-m", "nobody"), packages=("no-such-package-of-anyone==1",))
    with pytest.raises(NotInstalledError, match="no-such-package-of-anyone"):
        python_of(rival, tmp_path, limit_s=120)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # No text is cut into windows: int8 answers by the company of a window, and rivals batch windows in their own way.
    return make_bundle(tmp_path_factory.mktemp("tiny") / "bundle", max_tokens=128)


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Server]:
    with running(*chosen(("fastapi-onnx",)), sys.executable, bundle) as server:
        yield server


def expected(bundle: Path) -> list[list[tuple[str, int, int]]]:
    engine = Engine(Bundle.load(bundle))
    return [entities(engine.predict([text]))[0] for text in TEXTS]


@pytest.mark.long
def test_a_rival_is_measured_if_it_answers_as_the_engine_does(served: Server, bundle: Path):
    found = asyncio.run(Visit(served, Plan(TEXTS, expected(bundle), seconds=0.3)).measure())
    assert found["equal_alone"] == found["equal_in_requests_of_32"] == 1
    assert found["single"]["per_s"] > 10
    assert found["single"]["errors"] == {}
    assert found["single"]["cores"]["server"] > 0.1
    assert found["memory_bytes"] > 50e6
    assert set(found["curve"]) == set(map(str, CURVE))


@pytest.mark.long
def test_a_rival_with_other_answers_is_not_timed(served: Server, bundle: Path):
    wrong = [[("PER", 0, 1)], *expected(bundle)[1:]]
    with pytest.raises(ServerError, match="only 75% of 4 texts"):
        asyncio.run(Visit(served, Plan(TEXTS, wrong, seconds=0.3)).measure())


def test_nothing_of_a_server_is_left_and_its_end_is_told_with_its_last_words(bundle: Path):
    broken = Entrant("broken", "Broken", ("-c", "raise SystemExit('no luck')"))
    with running(broken, sys.executable, bundle) as server, pytest.raises(ServerError, match="no luck"):
        asyncio.run(Visit(server, Plan(TEXTS, [], seconds=0.1)).measure())
    stubborn = "import signal, time; signal.signal(15, lambda *_: None); import subprocess, sys; " + (
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); sys.exit()"
    )
    with running(Entrant("stubborn", "S", ("-c", stubborn)), sys.executable, bundle) as server:
        psutil.Process(server.processes()[0].pid).wait(10) if server.processes() else None
        left = server.processes()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)


@pytest.mark.long
def test_a_run_writes_its_result_and_goes_on_where_it_was(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = ServingBenchmark(
        bundle=str(bundle), rivals=("fastapi-onnx",), rounds=1, seconds=0.3, workdir=str(tmp_path / "work"),
        checked_texts=8, result=str(tmp_path / "result.json"), picture=str(tmp_path / "picture.svg"),
    )  # fmt: skip
    main(config)
    said = capsys.readouterr().out
    first = json.loads((tmp_path / "result.json").read_text())
    assert "1/2 round 1 ceiling" in said
    assert "2/2 round 1 fastapi-onnx" in said
    assert "| FastAPI + ONNX Runtime, unbatched |" in said
    assert said.count("\naim ") == len(first["aims"]) == 9
    assert first["entrants"]["fastapi-onnx"]["median"]["single_requests_per_s"]["median"] > 10
    assert first["ceilings"]["median"]["single_texts_per_s"] > 10
    assert (tmp_path / "picture.svg").stat().st_size > 10_000
    main(config)
    assert "round 1" not in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text()) == first


def test_sorted_windows_of_a_ceiling_count_texts_a_second(bundle: Path):
    found = measure(str(bundle), TEXTS, 0.2, 1)
    assert found["sorted_texts_per_s"] == max(found["sorted_texts_per_s_by_tokens"].values())
    assert 0 < found["bare_p50_s"] < 1
