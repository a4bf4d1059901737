"""The benchmark of compression as a whole, on a tiny agent: every figure that the table and the aims need is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agent.config.base import from_mapping, load
from benchmarks import compressed_agents as benchmark
from compression.pipeline.pipeline_inputs import CompressionConfig
from tests.compression.agents import tiny_bundle

EXPORT = {"kind": "export", "exporter": "torchscript"}
QUICK = {"kind": "verify", "rounds": 1, "max_sentences": 16}


@pytest.mark.parametrize("name", benchmark.RECIPES)
def test_every_recipe_is_a_compression(name: str) -> None:
    steps = benchmark.RECIPES[name]
    assert from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": steps}).steps[-1].kind == "verify"


@pytest.mark.long
@pytest.mark.system
def test_the_table_the_steps_and_the_aims_come_from_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "OPTIMUM", tmp_path / "absent")
    bundle = tiny_bundle(tmp_path / "made")
    shutil.copytree(bundle, tmp_path / "work/agent")
    recipes = {
        "default": ["prune", EXPORT, "quantize", QUICK],
        "tiny one": [{"kind": "shrink", "layers": 1}, EXPORT, "quantize", QUICK],
    }
    config = load(
        benchmark.CompressionBenchmark,
        [
            f"workdir={tmp_path / 'work'}", f"data.path={bundle.parent / 'data'}", f"result={tmp_path / 'results/c.json'}",
            f"recipes={json.dumps(recipes)}", "threads=1", "rounds=1", "sentences=16", "min_kept=0.1", "article_tokens=40",
        ],
    )  # fmt: skip
    benchmark.main(config)
    result = json.loads((tmp_path / "results/c.json").read_text())
    assert [row["name"] for row in result["rows"]] == [benchmark.ORIGINAL, "default", "tiny one"]
    steps = result["after_each_step"]["tiny one"]
    assert [row["step"] for row in steps] == ["original", "shrink", "export", "quantize"]
    assert steps[1]["flops_per_token"] < steps[0]["flops_per_token"]
    out = capfd.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("aim ")]
    assert len(lines) == 6
    assert all(line.endswith((" met", " missed")) for line in lines if "optimum" not in line)
    assert [line for line in lines if "not measured" in line] == [line for line in lines if "optimum" in line]
    assert "tiny one, quantize" in out
    names = sorted(file.name for file in (tmp_path / "results").iterdir())
    assert names == ["c-default.md", "c-default.svg", "c-tiny-one.md", "c-tiny-one.svg", "c.json", "c.svg"]
    assert "(c-tiny-one.svg)" in (tmp_path / "results/c-tiny-one.md").read_text()
