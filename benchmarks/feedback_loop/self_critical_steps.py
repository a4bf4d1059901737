"""Whether self-critical steps raise a tagger's F1 beyond as many supervised ones: real training runs on a slice of real data.

    python benchmarks/feedback_loop/self_critical_steps.py data=DIR/ner_conll2003 [seeds=[0]] [start_epochs=2] [epochs=3]

An agent is trained by training/run.py for `start_epochs` epochs and stopped. From its weights on the same number of steps is made by cross-entropy and by
`objective.kind=self_critical` at several parts of cross-entropy, all at the same settings. F1 of the last epoch on dev and of the best epoch on test. Writes
benchmarks/results/self_critical_steps.json after each run; runs that are in it are not made again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent import markdown  # noqa: E402
from agent.bundle import Bundle, installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.files import write_file  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/self_critical_steps.json"


class StepsConfig(Config):
    """What is compared."""

    data: str = Field(description="directory with train, dev and test in CoNLL columns")
    sentences: dict[str, int] = Field(
        {"train": 1_000, "dev": 500, "test": 1_000}, description="of each split, the first"
    )
    start_epochs: int = Field(2, ge=1, description="epochs after which the tagger is stopped")
    epochs: int = Field(3, ge=1, description="epochs from there on")
    learning_rate: float = Field(5e-5, gt=0, description="of these epochs")
    supervised: tuple[float, ...] = Field((0.5, 0.0), description="objective.supervised of the self-critical runs")
    samples: int = Field(4, ge=1, description="objective.samples")
    seeds: tuple[int, ...] = (0,)
    workdir: str = Field("runs/self_critical", description="where slices and bundles go")
    output: str = Field(str(RESULT), description="file for the result")


def measure(config: StepsConfig) -> None:
    """Makes the runs that are missing, prints and writes."""
    output, work = Path(config.output), Path(config.workdir).absolute()
    rows: dict[str, Any] = json.loads(output.read_text())["runs"] if output.exists() else {}
    data = _cut(Path(config.data), work / "data", config)
    objectives = {"cross-entropy": ["objective.kind=cross_entropy"]} | {
        f"self-critical, supervised={part:g}": [
            "objective.kind=self_critical", f"objective.supervised={part}", f"objective.samples={config.samples}"
        ]
        for part in config.supervised
    }  # fmt: skip
    for seed in config.seeds:
        start = work / f"start-{seed}"
        runs = {"start": [f"epochs={config.start_epochs}", f"output={start}"]}
        for place, (name, keys) in enumerate(objectives.items()):
            runs[name] = [
                f"epochs={config.epochs}", f"output={work}/later-{seed}-{place}", f"model.name={start}",
                f"optimizer.learning_rate={config.learning_rate}", *keys,
            ]  # fmt: skip
        for name, keys in runs.items():
            if f"{name}, seed {seed}" not in rows:
                rows[f"{name}, seed {seed}"] = _run(data, seed, keys)
                _write(config, rows)
    shown = [
        [name, *(f"{row[key]:.4f}" for key in ("dev, last epoch", "dev, best", "test"))] for name, row in rows.items()
    ]
    print("\n".join(markdown.table([["run", "dev, last epoch", "dev, best", "test"], *shown])))


def _run(data: Path, seed: int, keys: list[str]) -> dict[str, float]:
    """F1 on dev by epoch, and of the published agent."""
    output = Path(next(key for key in keys if key.startswith("output=")).removeprefix("output="))
    shutil.rmtree(output, ignore_errors=True)
    fixed = [
        f"data.path={data}",
        f"seed={seed}",
        "batch.tokens=512",
        "early_stopping.patience=null",
        "cluster.dashboard=false",
    ]
    subprocess.run([sys.executable, "training/run.py", *fixed, *keys], cwd=ROOT, check=True)
    log = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["dev_score"] for row in log if row["kind"] == "epoch"]
    test = next(one.report for one in Bundle.load(output).manifest.evaluations if one.split == "test")
    return {
        "dev, last epoch": epochs[-1], "dev, best": max(epochs), "test": test.value, "test precision": test.metrics["precision"],
        "test recall": test.metrics["recall"], "seconds": sum(row["seconds"] for row in log if row["kind"] == "epoch"),
    }  # fmt: skip


def _write(config: StepsConfig, rows: dict[str, Any]) -> None:
    content = {
        "config": config.model_dump(mode="json", exclude={"output", "workdir"}) | {"data": Path(config.data).name},
        "runs": rows, "machine": machine(), "versions": installed_versions(("torch", "transformers", "deepspeed", "ray")),
    }  # fmt: skip
    write_file(Path(config.output), json.dumps(content, indent=1) + "\n")


def _cut(source: Path, target: Path, config: StepsConfig) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for name, count in config.sentences.items():
        sentences = (source / f"{name}.conll").read_text(encoding="utf-8").strip().split("\n\n")
        (target / f"{name}.conll").write_text("\n\n".join(sentences[:count]) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    sys.exit(cli.run(StepsConfig, measure, usage=__doc__ or ""))
