"""What is refused: before work starts where that is possible, by name, and always without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.config.base import from_mapping
from agent.errors import BundleError, ConfigError, DataError, ExportError, GateError, TrainingError
from compression.exporters import TorchScriptExporter
from compression.pipeline.pipeline import compress
from compression.pipeline.pipeline_inputs import CompressionConfig
from tests.compression.pipeline.test_pipeline import run

ROOT = Path(__file__).resolve().parents[3]
EXPORT = {"kind": "export", "exporter": "torchscript"}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["prun", "verify"], "prun"),
        ([{"kind": "prune", "head_ratio": 1.0}, "verify"], "less than 1"),
        ([{"kind": "prune", "ffn_ratio": -0.1}, "verify"], "greater than or equal to 0"),
        ([{"kind": "prune", "head_ration": 0.1}, "verify"], "head_ration"),
        ([{"kind": "export", "exporter": "onnxmltools"}, "verify"], "optimum, transformers, torchscript"),
        (
            ["export", "prune", "verify"],
            "in the order shrink, distill, distill_texts, prune, vocabulary, low_rank, export, quantize, cascade, convert, verify",
        ),
        (["export", "export", "verify"], "each once"),
        (["prune", "quantize", "verify"], "needs a step export"),
        (["prune", "export"], "must end with verify"),
        ([], "must end with verify"),
        ("prune", "steps"),
    ],
)
def test_wrong_steps_are_refused(steps: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": steps})


HARSH = {"kind": "prune", "head_ratio": 0.7, "ffn_ratio": 0.9, "repair": False}


def test_the_gate_publishes_nothing_and_says_by_how_much(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"is 0\.\d+ below the 0\.\d+ it needs .*test split") as caught:
        run(tagger, tmp_path / "out", [HARSH], gate={"after_each": False})
    reports = ["out.report.json", "out.report.md"]
    assert sorted(file.name for file in tmp_path.iterdir()) == [".out.work", *reports, "out.report.svg"]
    assert "NOT passed" in (tmp_path / "out.report.md").read_text()
    assert str(tmp_path / "out.report.md") in str(caught.value)
    run(tagger, tmp_path / "out", [])
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_step_that_loses_too_much_stops_the_run_there(
    tagger: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GateError, match=r"refuses what prune left: .* 24 examples of the dev split"):
        run(tagger, tmp_path / "out", [HARSH, EXPORT, "quantize"], gate={})
    assert "verify" not in capfd.readouterr().err
    page, tree = (tmp_path / "out.report.md").read_text(), json.loads((tmp_path / "out.report.json").read_text())
    assert "NOT passed, nothing published: what prune left keeps" in page
    assert "![Score kept against speed](out.report.svg)" in page
    assert [row["kind"] for row in tree["step_rows"]] == ["original", "prune"]
    assert (tree["passed"], tree["model_rows"]) == (False, [])
    assert not (tmp_path / "out").exists()
    capfd.readouterr()
    with pytest.raises(GateError, match="refuses what prune left"):
        run(tagger, tmp_path / "out", [HARSH, EXPORT, "quantize"], gate={})
    assert "finished steps: prune" in capfd.readouterr().out
    run(tagger, tmp_path / "out", [HARSH, EXPORT, "quantize"])


def test_the_margin_is_what_a_step_may_lose_more(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="refuses compressed, PyTorch"):
        run(tagger, tmp_path / "out", [HARSH, EXPORT], gate={"margin": 1.0})


def test_a_step_before_one_that_wins_quality_back_is_not_judged(tagger: Path, tmp_path: Path) -> None:
    from compression.steps import DistillStep, PruneStep

    assert DistillStep.recovers_quality
    assert not PruneStep.recovers_quality
    # Ray is not started: what counts is that the run comes as far as distillation.
    os.environ["RAY_ADDRESS"] = "127.0.0.1:1"
    try:
        with pytest.raises(TrainingError):
            run(
                tagger,
                tmp_path / "out",
                [{"kind": "shrink", "layers": 1, "ffn_units": 8}, "distill"],
                gate={"margin": 0},
            )
    finally:
        del os.environ["RAY_ADDRESS"]
    with pytest.raises(GateError, match="refuses what shrink left"):
        run(tagger, tmp_path / "out", [{"kind": "shrink", "layers": 1, "ffn_units": 8}], gate={"margin": 0})


def test_judging_what_is_not_measured_is_refused() -> None:
    tree = {"bundle": "a", "output": "b", "measure": "none", "gate": {"after_each": True}}
    with pytest.raises(ConfigError, match="after_each=true needs measure=quick"):
        from_mapping(CompressionConfig, tree)


def test_the_gate_holds_an_absolute_f1(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"below the 1\.0000 it needs"):
        run(
            tagger,
            tmp_path / "out",
            [{"kind": "prune", "ffn_ratio": 0.9, "repair": False}],
            gate={"min_score": 1.0, "min_score_kept": 0},
        )


def test_a_refusal_leaves_the_bundle_that_was_there(tagger: Path, tmp_path: Path) -> None:
    run(tagger, tmp_path / "out", [])
    before = (tmp_path / "out/bundle.json").read_bytes()
    harsh = {"kind": "prune", "ffn_ratio": 0.9, "repair": False}
    with pytest.raises(GateError):
        run(tagger, tmp_path / "out", [harsh], gate={"min_score": 1.0}, overwrite=True)
    assert (tmp_path / "out/bundle.json").read_bytes() == before


def test_a_compressed_bundle_is_refused(tagger: Path, tmp_path: Path) -> None:
    run(tagger, tmp_path / "out", [EXPORT])
    with pytest.raises(BundleError, match=r"out is compressed already \(it holds model.onnx\)"):
        run(tmp_path / "out", tmp_path / "again", [EXPORT])
    assert not (tmp_path / "again").exists()


def test_an_output_that_exists_is_refused_before_work(tagger: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        run(tagger, tmp_path / "out", [])


def test_data_with_other_labels_is_refused(tagger: Path, tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.conll").write_text("acme B-SHOP\n")
    with pytest.raises(DataError, match="unknown label 'SHOP'"):
        run(tagger, tmp_path / "out", [], data={"path": str(tmp_path)})


def test_data_of_another_task_is_refused(tagger: Path, classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spans"):
        run(tagger, tmp_path / "out", [], data={"path": str(classifier.parent / "data")})


def test_a_graph_that_disagrees_is_refused_with_the_difference(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"differs from PyTorch by \d.*batch of shape"):
        run(tagger, tmp_path / "out", [EXPORT | {"tolerance": 1e-12}])
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_is_not_installed_is_refused_before_the_bundle_is_read(tmp_path: Path) -> None:
    from compression.exporters import EXPORTERS

    absent = [kind for kind, exporter in EXPORTERS.items() if exporter.missing()]
    for kind in absent:
        with pytest.raises(ConfigError, match=f"exporter '{kind}' needs"):
            run(tmp_path / "absent", tmp_path / "out", [{"kind": "export", "exporter": kind}])


def test_a_pattern_that_fits_no_node_is_refused(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exclude='\*nowhere\*' fits no node"):
        run(tagger, tmp_path / "out", [EXPORT, {"kind": "quantize", "exclude": ["*nowhere*"]}])


def test_an_interruption_leaves_only_what_the_next_run_goes_on_with(
    tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TorchScriptExporter, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tagger, tmp_path / "first", [EXPORT])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        run(tagger, tmp_path / "out", ["prune", EXPORT])
    assert [file.name for file in tmp_path.iterdir()] == [".out.work"]


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "compression/run.py"), *arguments],
        capture_output=True, text=True, timeout=120, env=environment, cwd="/", check=False,
    )  # fmt: skip


def test_the_command_compresses_an_agent(tagger: Path, tmp_path: Path) -> None:
    steps = "steps=[prune,{kind: export, exporter: torchscript},quantize,{kind: verify, rounds: 1}]"
    done = _command(f"bundle={tagger}", f"output={tmp_path / 'out'}", "threads=1", "gate.min_score_kept=0.5", steps)
    assert done.returncode == 0, done.stderr
    assert "ONNX int8" in done.stdout
    assert "Gate passed" in done.stdout
    assert "[torch.onnx]" not in done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert (tmp_path / "out/model.int8.onnx").is_file()


def test_help_and_wrong_keys_answer_without_heavy_imports() -> None:
    assert "steps" in _command("--help").stdout
    wrong = _command("bundle=a", "output=b", "gate.min_f1_keep=0.9")
    assert wrong.returncode == 2
    assert "did you mean gate.min_score_kept" in wrong.stderr
    code = "import sys, compression.pipeline.pipeline; print({'torch', 'transformers', 'onnx', 'onnxruntime', 'ray'} & set(sys.modules))"
    light = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert light.stdout.strip() == "set()"


def test_a_compression_that_refuses_by_the_command_has_its_status(tagger: Path, tmp_path: Path) -> None:
    refused = _command(f"bundle={tmp_path}", f"output={tmp_path / 'out'}")
    assert (refused.returncode, "is no bundle" in refused.stderr) == (2, True)


def test_compress_is_a_plain_function() -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        compress(from_mapping(CompressionConfig, {"bundle": "/nonexistent", "output": "/tmp/nowhere"}))
