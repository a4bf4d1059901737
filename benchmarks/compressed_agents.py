"""How small and fast does an agent become, at which F1? Beside PyTorch and optimum's own recipe, in one process, in turns.

    python benchmarks/compressed_agents.py [data.path=../shared/data/ner_conll2003] [workdir=runs/compression] [threads=2]

Trains an agent, compresses it by each of `recipes` and by optimum (in .venv-optimum, which `make test-optimum` makes; left out
where that is absent), then measures all of them. Bundles that stand in `workdir` are taken as they are; an interrupted one goes
on. Writes `result`, beside it the picture of F1 against speed and each recipe's own report; prints a table, what each step gave,
and the aims.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as compression/run.py: PyTorch gains by it

from pydantic import Field  # noqa: E402

from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from agent.encoding import Batch, Encoder, Window, pad  # noqa: E402
from agent.evaluation import Forward, evaluate  # noqa: E402
from agent.tasks import BaseTask  # noqa: E402
from benchmarks.common.aim import Aim  # noqa: E402
from compression.measurement.speed import (  # noqa: E402
    CpuContention,
    TimeBudget,
    batches_by_length,
    evenly_spaced,
    latencies,
    machine,
    seconds_of,
    throughputs,
)
from compression.reporting.frontier_plot import Point, draw_frontier  # noqa: E402

RESULT = ROOT / "benchmarks/results/compression.json"
OPTIMUM = ROOT / ".venv-optimum/bin/python"
ORIGINAL, RIVAL = "PyTorch fp32, eager", "optimum, dynamic int8"
TAIL = ("export", "quantize", "verify")
RECIPES: dict[str, list[Any]] = {
    "default": ["prune", *TAIL],
    "dynamic": ["prune", "export", {"kind": "quantize", "variant": "dynamic"}, "verify"],
    "24,000 sub-words": ["prune", {"kind": "vocabulary", "size": 24_000}, *TAIL],
    "5 layers, 768 units": [{"kind": "shrink", "layers": 5, "ffn_units": 768}, "distill", *TAIL],
    "4 layers, 768 units": [
        {"kind": "shrink", "layers": 4, "ffn_units": 768},
        {"kind": "distill", "epochs": 6, "batch_tokens": 512, "learning_rate": 3e-4},
        *TAIL,
    ],
}
ARTICLE_SENTENCES = 64


class CompressionBenchmark(Config):
    """What is measured."""

    data: DataConfig = DataConfig(path=str(ROOT / "../shared/data/ner_conll2003"))
    workdir: str = Field("runs/compression", description="where the bundles go; remove it to train and compress anew")
    epochs: int = Field(3, ge=1, description="of the agent, and of students")
    recipes: dict[str, list[Any]] = Field(
        RECIPES, description="steps by name; the fastest that keeps min_kept competes"
    )
    min_kept: float = Field(0.99, description="part of the original's test F1 that must remain")
    threads: int = Field(2, ge=1, description="of PyTorch and of ONNX Runtime")
    batch_size: int = 32
    sentences: int = Field(512, description="test sentences over which throughput is measured")
    rounds: int = Field(10, ge=1, description="turns that every model takes at the clock")
    article_tokens: int = Field(128, ge=1, description="what the articles pad every sentence to")
    result: str = Field(str(RESULT), description="the JSON to write")


@dataclass(frozen=True)
class Contender:
    """A model to be measured: what computes, the files that serving it needs, and its tokenizer."""

    name: str
    forward: Forward
    files: Sequence[Path]
    encoder: Encoder

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self.files)


def main(config: CompressionBenchmark) -> None:
    """Makes what is missing, measures, writes, prints."""
    workdir = Path(config.workdir).absolute()
    agent = workdir / "agent"
    run(agent, "training/run.py", f"data.path={config.data.path}", f"epochs={config.epochs}", f"output={agent}")
    bundles = {name: compressed(config, agent, workdir / slug(name), steps) for name, steps in config.recipes.items()}
    contenders = gather(config, Bundle.load(agent), bundles, optimum(agent, workdir / "optimum"))
    rows, contention = measured(config, Bundle.load(agent), contenders)
    reports = {name: json.loads((path / "report.json").read_text()) for name, path in bundles.items()}
    aims = find_aims(rows, config.min_kept)
    result = {
        "machine": machine(),
        "data": Path(config.data.path).name,
        "config": config.model_dump(mode="json", exclude={"data", "workdir", "result"}),
        "contention_cores": contention,
        "reports": {name: report["notes"] for name, report in reports.items()},
        "after_each_step": {name: after_each_step(report) for name, report in reports.items()},
        "rows": rows,
        "aims": [{"name": aim.name, "measured": aim.measurement, "bound": aim.bound, "met": aim.met} for aim in aims],
    }
    place = Path(config.result)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1) + "\n")
    draw_frontier(place.with_suffix(".svg"), points(rows))
    for name, path in bundles.items():
        for kind in ("md", "svg"):  # the page names the picture
            shutil.copy(path / f"report.{kind}", place.parent / f"{place.stem}-{slug(name)}.{kind}")
        page = place.parent / f"{place.stem}-{slug(name)}.md"
        page.write_text(page.read_text().replace("(report.svg)", f"({place.stem}-{slug(name)}.svg)"))
    print(
        "",
        *table(rows, config.article_tokens),
        "",
        *steps_table(result["after_each_step"]),
        "",
        *map(str, aims),
        sep="\n",
    )


def run(output: Path, *arguments: str) -> None:
    """Runs a command of ours unless its bundle stands."""
    if not (output / "bundle.json").is_file():
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def compressed(config: CompressionBenchmark, agent: Path, output: Path, steps: list[Any]) -> Path:
    """The agent after a recipe, whatever the gate would say: F1 is told beside speed."""
    given = json.dumps(steps)
    options = (f"threads={config.threads}", "gate.min_f1_kept=0", "measure=full", f"steps={given}")
    run(output, "compression/run.py", f"bundle={agent}", f"output={output}", *options)
    return output


def slug(name: str) -> str:
    """A recipe's name as that of a directory."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def optimum(agent: Path, output: Path) -> Path | None:
    """The agent after optimum's recipe: a directory with an ONNX file and the tokenizer; None without its environment."""
    if not OPTIMUM.is_file():
        print("note: no .venv-optimum, optimum is left out; make test-optimum sets it up")
        return None
    if not (output / "int8").is_dir():
        subprocess.run([OPTIMUM, "benchmarks/optimum_recipe.py", str(agent), str(output)], cwd=ROOT, check=True)
    return output / "int8"


def gather(
    config: CompressionBenchmark, agent: Bundle, bundles: Mapping[str, Path], rival: Path | None
) -> list[Contender]:
    """The original first."""
    from compression.encoder.torch_model import load_model, torch_forward
    from compression.graphs.onnx_graph import graph_forward, open_session

    def graph(name: str, directory: Path, file: Path) -> Contender:
        forward = graph_forward(open_session(file, config.threads))
        encoder = Encoder.load(directory, max_tokens=agent.manifest.max_tokens, stride=agent.manifest.stride)
        return Contender(name, forward, [file, directory / "tokenizer.json"], encoder)

    found = [Contender(ORIGINAL, torch_forward(load_model(agent)), [agent.path / "model.safetensors"], agent.encoder)]
    if rival:
        found.append(graph(RIVAL, rival, next(rival.glob("*.onnx"))))
    for name, path in bundles.items():
        found.append(graph(name, path, path / Bundle.load(path).manifest.onnx[-1].file))
    return found


def measured(
    config: CompressionBenchmark, agent: Bundle, contenders: Sequence[Contender]
) -> tuple[list[dict[str, Any]], float | None]:
    """A row for each, and the cores that others took meanwhile."""
    from compression.encoder.torch_model import torch_threads

    task = agent.task
    test = load_splits(config.data, task).test
    sample = evenly_spaced(test, config.sentences)
    windows = {one.name: windows_of(task, one.encoder, sample) for one in contenders}
    batches = {
        one.name: batches_by_length(windows[one.name], pad_id=one.encoder.pad_id, batch_size=config.batch_size)
        for one in contenders
    }
    forwards = {one.name: one.forward for one in contenders}
    with torch_threads(config.threads):
        scores = {one.name: evaluate(task, one.encoder, test, one.forward) for one in contenders}
        neighbours = CpuContention()
        budget = TimeBudget(config.rounds, budget_s=600)
        vocabulary = min(one.encoder.tokenizer.get_vocab_size() for one in contenders)
        delays = latencies(forwards, max_tokens=agent.manifest.max_tokens, vocabulary=vocabulary, budget=budget)
        flows = throughputs(forwards, batches, budget=budget)
        article = one_at_a_time(contenders, windows, tokens=config.article_tokens, rounds=config.rounds)
        contention = neighbours.contention(config.threads)
    rows = [
        {
            "name": one.name,
            "test_f1": scores[one.name].value,
            "f1_by_type": {key: value for key, value in scores[one.name].metrics.items() if key.startswith("f1.")},
            "serving_bytes": one.num_bytes,
            "sentences_per_s": flows[one.name].sentences_per_s,
            "tokens_per_s": flows[one.name].tokens_per_s,
            "latency_ms": {tokens: delay.model_dump() for tokens, delay in delays[one.name].items()},
            "one_at_a_time_sentences_per_s": article[one.name],
        }
        for one in contenders
    ]
    return rows, contention


def windows_of(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> list[Window]:
    """Of all examples, in order."""
    return [window for document in task.encode(encoder, examples) for window in document.windows]


def one_at_a_time(
    contenders: Sequence[Contender], windows: Mapping[str, Sequence[Window]], *, tokens: int, rounds: int
) -> dict[str, float]:
    """Sentences a second, one in a batch, the median of all rounds: the original padded as the article has it, the others not."""
    batches = {one.name: single_batches(one, windows[one.name][:ARTICLE_SENTENCES], tokens) for one in contenders}
    seconds: dict[str, list[float]] = {one.name: [] for one in contenders}
    for _ in range(max(1, rounds // 3)):
        for one in contenders:
            seconds[one.name].append(sum(seconds_of(one.forward, batch) for batch in batches[one.name]))
    return {name: len(batches[name]) / statistics.median(times) for name, times in seconds.items()}


def single_batches(one: Contender, windows: Sequence[Window], tokens: int) -> list[Batch]:
    """A batch for each sentence that fits, the original's stretched."""
    pad_id = one.encoder.pad_id
    plain = [pad([window], pad_id) for window in windows if len(window.input_ids) <= tokens]
    return [stretched(batch, pad_id, tokens) for batch in plain] if one.name == ORIGINAL else plain


def stretched(batch: Batch, pad_id: int, tokens: int) -> Batch:
    """Padded to so many tokens."""
    import numpy as np

    room = ((0, 0), (0, tokens - batch.input_ids.shape[1]))
    return Batch(
        np.pad(batch.input_ids, room, constant_values=pad_id),
        np.pad(batch.attention_mask, room),
        np.pad(batch.token_type_ids, room),
    )


def find_aims(rows: Sequence[Mapping[str, Any]], min_kept: float) -> list[Aim]:
    """Of the fastest recipe that keeps enough F1; without one there is nothing to measure."""
    original = rows[0]
    rival = next((row for row in rows if row["name"] == RIVAL), None)
    ours = [row for row in rows if row["name"] not in {ORIGINAL, RIVAL}]
    good = [row for row in ours if row["test_f1"] >= min_kept * original["test_f1"]]
    best = max(good, key=lambda row: row["sentences_per_s"], default=None)

    def of(measure: Any, *needed: Any) -> float | None:
        return float(measure()) if all(needed) else None

    return [
        Aim("throughput over PyTorch fp32", of(lambda: best["sentences_per_s"] / original["sentences_per_s"], best), 6),
        Aim("latency of 16 tokens, PyTorch's over ours", of(lambda: median_ms(original) / median_ms(best), best), 10),
        Aim("files to serve over fp32 weights", of(lambda: best["serving_bytes"] / original["serving_bytes"], best), 1 / 8, at_least=False),
        Aim("test F1 kept", of(lambda: best["test_f1"] / original["test_f1"], best), min_kept),
        Aim("throughput over optimum's recipe", of(lambda: best["sentences_per_s"] / rival["sentences_per_s"], best, rival), 1.8),
        Aim("test F1 minus optimum's", of(lambda: best["test_f1"] - rival["test_f1"], best, rival), -0.003),
    ]  # fmt: skip


def points(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Of the picture: all contenders, beside the original."""
    original = rows[0]
    return [
        Point(row["name"], row["sentences_per_s"] / original["sentences_per_s"], row["test_f1"] / original["test_f1"])
        for row in rows
    ]


def after_each_step(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a recipe's own report says of its steps (dev split), without clocks of single sentences."""
    rows = [row for row in report["step_rows"] if row["measured"]]
    original = rows[0]["measured"]["quality"]["metrics"]["f1"]
    return [
        {
            "step": row["kind"],
            "seconds": row["seconds"],
            "size_bytes": row["measured"]["size_bytes"],
            "parameters": row["measured"]["parameters"],
            "flops_per_token": row["measured"]["flops_per_token"],
            "dev_f1": row["measured"]["quality"]["metrics"]["f1"],
            "kept": row["measured"]["quality"]["metrics"]["f1"] / original,
            "same_words": row["measured"]["agreement"]["words"],
            "calibration_error": row["measured"]["calibration_error"],
            "speed": row["speed"],
        }
        for row in rows
    ]


def steps_table(recipes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Which step gave how much."""
    head = f"{'recipe, after step':32} dev F1    kept     MB  MFLOP/token  speed"
    lines = [head]
    for name, rows in recipes.items():
        for row in rows:
            speed = "" if row["speed"] is None else f"{row['speed']:6.2f}"
            lines.append(
                f"{name + ', ' + row['step']:32} {row['dev_f1']:.4f} {row['kept']:7.2%} {row['size_bytes'] / 1e6:6.1f}"
                f" {row['flops_per_token'] / 1e6:12.1f} {speed}"
            )
    return lines


def median_ms(row: Any) -> float:
    """Of the shortest sentence."""
    return float(row["latency_ms"][min(row["latency_ms"])]["median_ms"])


def table(rows: Sequence[Mapping[str, Any]], article_tokens: int) -> list[str]:
    """For people."""
    original = rows[0]
    head = f"{'':28} test F1   kept     MB  sentences/s  speed  16 tokens, ms  one at a time, sentences/s"
    return [
        head,
        *(
            f"{row['name']:28} {row['test_f1']:.4f} {row['test_f1'] / original['test_f1']:7.2%} {row['serving_bytes'] / 1e6:6.1f}"
            f" {row['sentences_per_s']:11.0f} {row['sentences_per_s'] / original['sentences_per_s']:6.2f}"
            f" {median_ms(row):14.2f} {row['one_at_a_time_sentences_per_s']:10.0f}"
            for row in rows
        ),
        f"one at a time: {ORIGINAL} padded to {article_tokens} tokens, as the articles have it, the others at their own length",
    ]


if __name__ == "__main__":
    sys.exit(cli.run(CompressionBenchmark, main, usage=__doc__ or ""))
