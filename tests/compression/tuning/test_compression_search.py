"""The search for the fastest agent: what it tries, by which it chooses, what it keeps; one real search on a local Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.config.base import from_mapping, load
from agent.errors import BundleError, ConfigError, GateError
from compression.pipeline.pipeline import work_directory_of
from compression.tuning.compression_search import CompressionSearchConfig
from compression.tuning.search_runner import RECORD, search
from compression.tuning.trial_record import CompressionSearchRecord, CompressionTrial, TrialOutcome, render
from tests.compression.pipeline.test_pipeline import QUICK, check

ROOT = Path(__file__).resolve().parents[3]
EXPORT = {"kind": "export", "exporter": "torchscript"}


def config(bundle: Path, output: Path, **keys: Any) -> CompressionSearchConfig:
    tree = {
        "bundle": str(bundle), "output": str(output), "threads": 1, "gate": {"min_score_kept": 0}, "cluster": {"dashboard": False},
        "steps": ["prune", EXPORT, "quantize", QUICK], "max_score_loss": 0.2,
        "space": {"prune.ffn_ratio": "choice(0.0, 0.9)", "quantize.taken": "choice(true, false)", "prune.repair": "choice(false)"},
    }  # fmt: skip
    return from_mapping(CompressionSearchConfig, tree | keys)


@pytest.mark.system
@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_the_fastest_within_the_loss_is_published_and_an_unfinished_search_goes_on(
    tagger: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = config(tagger, tmp_path / "out")
    assert len(asked.trials()) == 4
    # As a search leaves it that was killed in its second trial, the first one having come to nothing.
    waiting = asked.trials()
    first = waiting[0].model_copy(update={"state": "failed", "failure": "planted"})
    bundle = Bundle.load(tagger)
    record = CompressionSearchRecord(
        config=asked.model_dump(mode="json"), bundle_digest=bundle.digest,
        data_digest=bundle.manifest.lineage.data_digest,
        trials=(first, waiting[1].model_copy(update={"state": "running"}), *waiting[2:]),
    )  # fmt: skip
    record.write(work_directory_of(asked.output) / RECORD)
    with pytest.raises(ConfigError, match="started with other settings: seed=3"):
        search(config(tagger, tmp_path / "out", seed=3))
    found, report = search(asked)
    out = capfd.readouterr().out
    assert "goes on with an unfinished search, 1 of 4 trials are over" in out
    assert "RAY_LOG_TO_DRIVER" not in os.environ
    assert "trial 1/4 starts" not in out
    assert [trial.state for trial in found.trials] == ["failed", "finished", "finished", "finished"]
    best = found.best(0.2)
    assert best is not None
    assert best.outcome == max(
        (one.outcome for one in found.trials if one.outcome and one.outcome.kept >= 0.8), key=lambda one: one.speed
    )
    assert f"**{best.number}, the best**" in "\n".join(render(found, 0.2))
    # The best bundle: verified, its steps not taken again, with the record and the picture of all.
    published = check(tmp_path / "out", report, tagger)
    assert {RECORD, "search.svg", "report.svg"} <= set(published.manifest.files)
    assert CompressionSearchRecord.model_validate_json((tmp_path / "out" / RECORD).read_bytes()) == found
    assert "## Trials of the search (dev split)" in (tmp_path / "out/report.md").read_text()
    assert "finished steps: prune, export" in out
    assert report.step_rows[-2].measurement
    assert report.step_rows[-2].measurement.score == best.outcome.score
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(BundleError, match="already holds a bundle"):
        search(asked)


@pytest.mark.system
@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_where_none_keeps_enough_nothing_is_published_and_a_greater_loss_needs_no_new_trial(
    tagger: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    space = {"prune.ffn_ratio": "choice(0.9)", "prune.head_ratio": "choice(1.5, 0.5)", "prune.repair": "choice(false)"}
    with pytest.raises(ConfigError, match=r"where it gives .*head_ratio=1\.5"):
        search(config(tagger, tmp_path / "out", space=space))
    assert list(tmp_path.iterdir()) == []
    space["prune.head_ratio"] = "choice(0.5)"
    with pytest.raises(GateError, match=r"no trial of 1 kept 100.00% of the score on the dev split, the best kept \d"):
        search(config(tagger, tmp_path / "out", space=space, max_score_loss=0.0))
    assert [path.name for path in tmp_path.iterdir()] == [".out.work"]
    capfd.readouterr()
    search(config(tagger, tmp_path / "out", space=space, max_score_loss=0.99))
    assert "trial 1/1" not in capfd.readouterr().out
    assert (tmp_path / "out/bundle.json").is_file()


def trial(number: int, kept: float, speed: float) -> CompressionTrial:
    outcome = TrialOutcome(score=kept * 0.9, kept=kept, speed=speed, size_bytes=1_000_000)
    return CompressionTrial(
        number=number, settings={"prune.ffn_ratio": 0.1 * number}, state="finished", outcome=outcome
    )


def test_the_pareto_set_is_printed_first_and_the_best_is_the_fastest_within_the_loss() -> None:
    failed = CompressionTrial(number=5, settings={}, state="failed", failure="a | b")
    trials = (trial(1, 1.0, 2.0), trial(2, 0.995, 3.0), trial(3, 0.99, 2.5), trial(4, 0.9, 5.0), failed)
    record = CompressionSearchRecord(config={}, bundle_digest="", data_digest="", trials=trials)
    assert [one.number for one in record.pareto] == [1, 2, 4]
    assert [found and found.number for found in map(record.best, (0.0, 0.01, 0.2))] == [1, 2, 4]
    lines = render(record, 0.01)
    assert lines[4:7] == [
        "| 1 | prune.ffn_ratio=0.1 | 0.9000 | 100.00% | 2.00x | 1.0 |",
        "| **2, the best** | prune.ffn_ratio=0.2 | 0.8955 | 99.50% | 3.00x | 1.0 |",
        "| 4 | prune.ffn_ratio=0.4 | 0.8100 | 90.00% | 5.00x | 1.0 |",
    ]
    assert lines[-1] == "| 5 |  | failed a \\| b |  |  |  |"


def given(*arguments: str) -> CompressionSearchConfig:
    return load(CompressionSearchConfig, ["bundle=a", "output=b", *arguments])


def test_a_few_choices_are_tried_all_and_ranges_are_drawn_by_seed() -> None:
    grid = given("space.quantize.embeddings=choice(true,false)", "space.quantize.taken=choice(true,false)").trials()
    assert [one.settings for one in grid] == [
        {"quantize.embeddings": embeddings, "quantize.taken": taken}
        for embeddings in (True, False)
        for taken in (True, False)
    ]
    drawn = given("num_trials=5")
    assert drawn.trials() == given("num_trials=5").trials() == given("num_trials=9").trials()[:5]
    assert drawn.trials() != given("num_trials=5", "seed=1").trials()
    assert len(given("num_trials=1", "space.quantize.embeddings=choice(true,false)").trials()) == 1


def test_a_trial_is_the_given_compression_with_its_settings() -> None:
    asked = given("steps=[{kind: prune, head_ratio: 0.2},export,quantize,verify]", "threads=1")
    made = asked.compressed_with({"prune.ffn_ratio": 0.5, "quantize.taken": False})
    assert [step.kind for step in made.steps] == ["prune", "export", "verify"]
    assert (made.steps[0].head_ratio, made.steps[0].ffn_ratio, made.threads) == (0.2, 0.5, 1)
    assert given().compressed_with({"prune.ffn_ratio": 0.5}).steps[0].dev_score_kept is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["space.shrink.layers=choice(4, 5)"],
            "space.shrink.layers: there is no such step to search; steps are prune, export",
        ),
        (["space.prune.ffn_ratio=around(0.5)"], "space.prune.ffn_ratio='around.0.5.': give loguniform"),
        (["space.prune.taken=choice(0.1, 0.2)"], "whether a step is taken is choice.true, false."),
        (["measure=none"], "leaves nothing to compare trials by"),
        (["steps=[verify]"], "nothing to search in steps verify"),
        (["steps=[export,verify]"], "nothing to search in steps export, verify"),
        (["max_score_loss=1.0"], "less than 1"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        given(*arguments)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("space.prune.ffn_ration=uniform(0.1, 0.2)", "ffn_ration=0.1: unknown key .*ffn_ratio"),
        ("space.prune.ffn_ratio=uniform(0.1, 1.0)", "ffn_ratio=1: .*less than 1"),
        ("space.export.taken=choice(true, false)", "export.taken=False: .*quantize needs a step export"),
    ],
)
def test_a_key_or_an_end_that_a_step_does_not_take_is_refused_by_name(argument: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"space, where it gives .*{told}"):
        given(argument).trials()


def test_trials_that_would_share_cores_are_refused(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_concurrent=999 with threads=1 needs 999 cores"):
        search(config(tagger, tmp_path / "out", max_concurrent=999))


def test_a_search_without_ray_says_what_to_install(
    tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    with pytest.raises(ConfigError, match=r"needs ray\[tune\]"):
        search(config(tagger, tmp_path / "out"))


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['search.py', '--help']; from compression.search import *; "
        "cli.run(CompressionSearchConfig, main, usage=USAGE); "
        "print(sorted({'torch', 'transformers', 'onnx', 'onnxruntime', 'ray', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "max_score_loss" in done.stdout
    assert json.dumps("space.prune.ffn_ratio")[1:-1] in done.stdout
