"""A run that is killed goes on behind the last step that it finished, and comes to the same end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import GateError
from compression.steps import QuantizeStep
from compression.steps.prune import PruneStep
from tests.compression.pipeline.test_pipeline import run

ROOT = Path(__file__).resolve().parents[3]
PRUNE = {"kind": "prune", "head_ratio": 0.25, "ffn_ratio": 0.5}
EXPORT = {"kind": "export", "exporter": "torchscript"}
STEPS: list[Any] = [PRUNE, EXPORT, "quantize"]
VERIFY = {"kind": "verify", "rounds": 1, "max_sentences": 16}


def command(bundle: Path, output: Path) -> list[str]:
    steps = json.dumps([*STEPS, VERIFY])
    given = [f"bundle={bundle}", f"output={output}", "threads=1", "gate.min_score_kept=0.3", f"steps={steps}"]
    return [sys.executable, str(ROOT / "compression/run.py"), *given]


def killed_after(kind: str, bundle: Path, output: Path) -> None:
    """Starts a run and kills it as soon as a step is kept."""
    kept = output.with_name(f".{output.name}.work") / "steps"
    process = subprocess.Popen(command(bundle, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(json.loads(file.read_text())["kind"] == kind for file in kept.glob("*.json")):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def essence(output: Path) -> dict[str, Any]:
    """What a run comes to, without clocks."""
    report = json.loads((output / "report.json").read_text())
    files = {
        name: hashlib.sha256((output / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "model.onnx", "model.int8.onnx", "tokenizer.json", "config.json")
    }
    quality = [(row["name"], row["quality"]["metrics"], row["agreement"]) for row in report["model_rows"]]
    trail = [
        (row["kind"], row["measurement"] and row["measurement"]["quality"]["metrics"]) for row in report["step_rows"]
    ]
    return {"files": files, "rows": quality, "trail": trail, "notes": report["notes"]}


@pytest.mark.faults
@pytest.mark.system
def test_a_killed_run_goes_on_behind_its_last_finished_step_and_comes_to_the_same_end(
    tagger: Path, tmp_path: Path
) -> None:
    killed_after("export", tagger, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = subprocess.run(command(tagger, tmp_path / "out"), capture_output=True, text=True, check=True, timeout=120)
    assert ".out.work; finished steps: prune, export" in done.stdout
    assert "prune: importance" not in done.stderr
    assert "export: torchscript" not in done.stderr
    assert "verify: quality" in done.stderr
    run(tagger, tmp_path / "undisturbed", STEPS, gate={"min_score_kept": 0.3})
    assert essence(tmp_path / "out") == essence(tmp_path / "undisturbed")
    assert [name for name in os.listdir(tmp_path) if name.startswith(".") and "work" in name] == []


def stopped(bundle: Path, output: Path, steps: list[Any], **keys: Any) -> None:
    """A run that all steps were finished of, and that the gate then refused."""
    with pytest.raises(GateError):
        run(bundle, output, steps, gate={"min_score": 1.0, "min_score_kept": 0, "after_each": False}, **keys)


@pytest.fixture(scope="module")
def refused(tagger: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Any]], Path]:
    """Runs steps of the tagger as `stopped` does, each list once; returns a directory with what is left. No test writes there."""
    places: dict[str, Path] = {}

    def run_once(steps: list[Any]) -> Path:
        key = json.dumps(steps)
        if key not in places:
            places[key] = tmp_path_factory.mktemp("refused")
            stopped(tagger, places[key] / "out", steps)
        return places[key]

    return run_once


@pytest.fixture
def after_refusal(refused: Callable[[list[Any]], Path], tmp_path: Path) -> Callable[[list[Any]], Path]:
    """The same in the test's own directory, which is returned."""
    return lambda steps: shutil.copytree(refused(steps), tmp_path, dirs_exist_ok=True)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that are taken from now on."""
    from compression.pipeline import pipeline

    kinds: list[str] = []
    run_step = pipeline._run_step
    monkeypatch.setattr(pipeline, "_run_step", lambda step, state: (kinds.append(step.kind), run_step(step, state))[1])
    return kinds


HARSH = {"kind": "prune", "ffn_ratio": 0.9, "repair": False}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, []),
        ({"steps": [HARSH, EXPORT, {"kind": "quantize", "embeddings": False}]}, ["quantize", "verify"]),
        ({"steps": [HARSH, EXPORT | {"fuse": False}, "quantize"]}, ["export", "quantize", "verify"]),
        ({"steps": [HARSH | {"head_ratio": 0.2}, EXPORT, "quantize"]}, ["prune", "export", "quantize", "verify"]),
        ({"seed": 1}, ["prune", "export", "quantize", "verify"]),
        ({"measure": "none"}, ["prune", "export", "quantize", "verify"]),
    ],
    ids=["nothing", "quantize", "export", "prune", "seed", "measure"],
)
def test_what_changed_and_what_follows_it_is_done_again(
    tagger: Path,
    after_refusal: Callable[[list[Any]], Path],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    again: list[str],
) -> None:
    same: dict[str, Any] = {"steps": [HARSH, EXPORT, "quantize"]}
    tmp_path = after_refusal(same["steps"])
    kinds = taken(monkeypatch)
    report = run(tagger, tmp_path / "out", **(same | change))
    assert kinds == again
    assert [row.kind for row in report.step_rows if row.kind != "original"] == ["prune", "export", "quantize", "verify"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_data_or_another_agent_takes_no_step_over(
    tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny import write_conll

    stopped(tagger, tmp_path / "out", [HARSH])
    data = write_conll(tmp_path / "data", train=60)
    kinds = taken(monkeypatch)
    run(tagger, tmp_path / "out", [HARSH], data={"path": str(data)})
    assert kinds == ["prune", "verify"]


def test_a_race_is_run_again_when_what_will_be_served_changes() -> None:
    from compression.exporters import EXPORTERS
    from compression.pipeline.snapshots import cache_keys
    from compression.steps import ExportStep

    if not EXPORTERS["optimum"].missing():
        pytest.skip("optimum is installed: there is no race")

    def key(export: ExportStep, quantize: QuantizeStep) -> str:
        return cache_keys([], [PruneStep(), export, quantize])[1]

    raced, chosen = ExportStep(), ExportStep(exporter="torchscript")
    assert key(raced, QuantizeStep()) != key(raced, QuantizeStep(embeddings=False))
    assert key(chosen, QuantizeStep()) == key(chosen, QuantizeStep(embeddings=False))


@pytest.mark.parametrize("damage", ["altered", "missing", "half written"])
def test_a_damaged_snapshot_is_not_gone_on_with(
    tagger: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_refusal: Callable[[list[Any]], Path],
    damage: str,
) -> None:
    after_refusal([HARSH, EXPORT])
    work_directory = tmp_path / ".out.work"
    graphs = {
        json.loads(file.read_text())["files"].get("model.onnx") for file in (work_directory / "steps").glob("*.json")
    } - {None}
    if damage == "half written":
        for file in (work_directory / "steps").glob("*.json"):
            file.write_text(file.read_text()[:100])
    for name in graphs:
        if damage == "altered":
            (work_directory / "objects" / name).write_bytes(b"not what it was")
        elif damage == "missing":
            (work_directory / "objects" / name).unlink()
    kinds = taken(monkeypatch)
    run(tagger, tmp_path / "out", [HARSH, EXPORT])
    assert kinds == (["prune"] if damage == "half written" else []) + ["export", "verify"]


def test_what_an_earlier_configuration_left_is_removed(
    tagger: Path, tmp_path: Path, after_refusal: Callable[[list[Any]], Path]
) -> None:
    after_refusal([HARSH, EXPORT])
    steps, objects = tmp_path / ".out.work/steps", tmp_path / ".out.work/objects"
    before = {file.name for file in steps.iterdir()}
    stopped(tagger, tmp_path / "out", [HARSH | {"head_ratio": 0.2}, EXPORT])
    assert not before & {file.name for file in steps.iterdir()}
    trees = [json.loads(file.read_text()) for file in steps.iterdir()]
    used = {name for tree in trees for name in (*tree["files"].values(), *tree["model"].values())}
    assert {file.name for file in objects.iterdir()} == used
