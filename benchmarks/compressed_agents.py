"""Size, speed and F1 of compressed agents, compared with PyTorch and with optimum's recipe.

    python benchmarks/compressed_agents.py [data.path=../shared/data/ner_conll2003] [workdir=runs/compression] [threads=2]

Trains an agent, compresses it by each of `recipes` and by optimum (in .venv-optimum, which `make test-optimum` makes; left out
where that is absent), then measures all of them in turns. Bundles in `workdir` are used as they are; an interrupted compression
is resumed. Writes `result`, the plot of F1 against speed and each recipe's report; prints tables and the aims.
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

from agent.batching import Batch, pad  # noqa: E402
from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data import DataConfig, load_splits  # noqa: E402
from agent.encoding import Encoder, Window  # noqa: E402
from agent.evaluation import Forward, evaluate  # noqa: E402
from agent.tasks import BaseTask  # noqa: E402
from benchmarks.compression_comparison.compression_summary import (  # noqa: E402
    ORIGINAL,
    RIVAL,
    after_each_step,
    find_aims,
    points,
    steps_table,
    table,
)  # fmt: skip
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
from compression.reporting.frontier_plot import draw_frontier  # noqa: E402

RESULT = ROOT / "benchmarks/results/compression.json"
OPTIMUM = ROOT / ".venv-optimum/bin/python"
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
    """A model to measure, with the files that serving it needs."""

    name: str
    forward: Forward
    files: Sequence[Path]
    encoder: Encoder

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def main(config: CompressionBenchmark) -> None:
    """Trains and compresses what is missing, measures all models and writes the result."""
    workdir = Path(config.workdir).absolute()
    agent = workdir / "agent"
    run(agent, "training/run.py", f"data.path={config.data.path}", f"epochs={config.epochs}", f"output={agent}")
    bundles = {name: compressed(config, agent, workdir / slug(name), steps) for name, steps in config.recipes.items()}
    contenders = gather(config, Bundle.load(agent), bundles, optimum(agent, workdir / "optimum"))
    rows, contention = measure(config, Bundle.load(agent), contenders)
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
        "aims": [{"name": aim.name, "measured": aim.measured, "bound": aim.bound, "met": aim.met} for aim in aims],
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
    """Runs a command unless its bundle exists."""
    if not (output / "bundle.json").is_file():
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)


def compressed(config: CompressionBenchmark, agent: Path, output: Path, steps: list[Any]) -> Path:
    """Compresses the agent by a recipe, without a quality gate."""
    given = json.dumps(steps)
    options = (f"threads={config.threads}", "gate.min_score_kept=0", "measure=full", f"steps={given}")
    run(output, "compression/run.py", f"bundle={agent}", f"output={output}", *options)
    return output


def slug(name: str) -> str:
    """A recipe's name as the name of a directory."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def optimum(agent: Path, output: Path) -> Path | None:
    """Compresses the agent by optimum's recipe, to a directory with an ONNX file and the tokenizer; None without its environment."""
    if not OPTIMUM.is_file():
        print("note: no .venv-optimum, optimum is left out; make test-optimum sets it up")
        return None
    if not (output / "int8").is_dir():
        subprocess.run(
            [OPTIMUM, "benchmarks/compression_comparison/optimum_recipe.py", str(agent), str(output)],
            cwd=ROOT,
            check=True,
        )
    return output / "int8"


def gather(
    config: CompressionBenchmark, agent: Bundle, bundles: Mapping[str, Path], rival: Path | None
) -> list[Contender]:
    """All models, the original first."""
    from compression.encoder.torch_model import load_model, torch_forward
    from compression.graphs.onnx_graph import graph_forward, open_session

    def graph(name: str, directory: Path, file: Path) -> Contender:
        forward = graph_forward(open_session(file, config.threads))
        encoder = agent.manifest.load_encoder(directory)
        return Contender(name, forward, [file, directory / "tokenizer.json"], encoder)

    found = [Contender(ORIGINAL, torch_forward(load_model(agent)), [agent.path / "model.safetensors"], agent.encoder)]
    if rival:
        found.append(graph(RIVAL, rival, next(rival.glob("*.onnx"))))
    for name, path in bundles.items():
        found.append(graph(name, path, path / Bundle.load(path).manifest.onnx[-1].file))
    return found


def measure(
    config: CompressionBenchmark, agent: Bundle, contenders: Sequence[Contender]
) -> tuple[list[dict[str, Any]], float | None]:
    """A row for each model, and the cores that other processes used meanwhile."""
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
        cpu = CpuContention()
        budget = TimeBudget(config.rounds, budget_s=600)
        vocabulary = min(one.encoder.tokenizer.get_vocab_size() for one in contenders)
        latency = latencies(forwards, max_tokens=agent.manifest.max_tokens, vocabulary=vocabulary, budget=budget)
        rates = throughputs(forwards, batches, budget=budget)
        article = one_at_a_time(contenders, windows, tokens=config.article_tokens, rounds=config.rounds)
        contention = cpu.contention(config.threads)
    rows = [
        {
            "name": one.name,
            "test_f1": scores[one.name].value,
            "f1_by_type": {key: value for key, value in scores[one.name].metrics.items() if key.startswith("f1.")},
            "serving_bytes": one.num_bytes,
            "sentences_per_s": rates[one.name].sentences_per_s,
            "tokens_per_s": rates[one.name].tokens_per_s,
            "latency_ms": {tokens: delay.model_dump() for tokens, delay in latency[one.name].items()},
            "one_at_a_time_sentences_per_s": article[one.name],
        }
        for one in contenders
    ]
    return rows, contention


def windows_of(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> list[Window]:
    """The windows of all examples, in order."""
    return [window for document in task.encode(encoder, examples) for window in document.windows]


def one_at_a_time(
    contenders: Sequence[Contender], windows: Mapping[str, Sequence[Window]], *, tokens: int, rounds: int
) -> dict[str, float]:
    """Median sentences per second in batches of one; the original is padded to `tokens`, the others are not."""
    batches = {one.name: single_batches(one, windows[one.name][:ARTICLE_SENTENCES], tokens) for one in contenders}
    seconds: dict[str, list[float]] = {one.name: [] for one in contenders}
    for _ in range(max(1, rounds // 3)):
        for one in contenders:
            seconds[one.name].append(sum(seconds_of(one.forward, batch) for batch in batches[one.name]))
    return {name: len(batches[name]) / statistics.median(times) for name, times in seconds.items()}


def single_batches(one: Contender, windows: Sequence[Window], tokens: int) -> list[Batch]:
    """A batch for each sentence that fits; padded to `tokens` for the original."""
    pad_id = one.encoder.pad_id
    plain = [pad([window], pad_id) for window in windows if len(window.input_ids) <= tokens]
    return [padded(batch, pad_id, tokens) for batch in plain] if one.name == ORIGINAL else plain


def padded(batch: Batch, pad_id: int, tokens: int) -> Batch:
    """The batch, padded to `tokens`."""
    import numpy as np

    room = ((0, 0), (0, tokens - batch.input_ids.shape[1]))
    return Batch(
        np.pad(batch.input_ids, room, constant_values=pad_id),
        np.pad(batch.attention_mask, room),
        np.pad(batch.token_type_ids, room),
    )


if __name__ == "__main__":
    sys.exit(cli.run(CompressionBenchmark, main, usage=__doc__ or ""))
