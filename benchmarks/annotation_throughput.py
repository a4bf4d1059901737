"""Throughput of offline annotation relative to the sorted ceiling, and its memory, on corpora of growing size.

    python benchmarks/annotation_throughput.py [bundle=DIR] [texts=FILE.jsonl] [sizes=[10000,100000,1000000]] [repeats=3]

Annotates corpora of growing size with `serving/annotate.py` on all cores. In turns with it, in a process of its own, the
ceiling: as many sessions of one thread, fed from memory with batches of all texts sorted by length. Writes
benchmarks/results/annotate.json and a line for each aim. Needs `pip install .[bench]` and a quiet machine.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import psutil  # noqa: E402
from pydantic import Field  # noqa: E402

from agent import corpus  # noqa: E402
from agent.bundle import Bundle, installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from benchmarks.common.aim import Aim  # noqa: E402
from benchmarks.common.machine import machine, marked_processes, memory_bytes  # noqa: E402
from cluster.connection import usable_cores  # noqa: E402

_PACKAGES = ("bert-agent", "ray", "onnxruntime-gpu", "onnxruntime", "tokenizers", "numpy", "pyarrow")
_SAMPLE_EVERY_S = 1.0
_CHUNK = 4_096  # texts that the ceiling tokenises at once where it does so in its loop
_MOST_DISTINCT = 100_000  # sentences that the embedded corpus has
Figures = dict[str, Any]


class AnnotateBenchmark(Config):
    """What is annotated, and how often."""

    bundle: str = Field("runs/demo/agent-small", description="compressed agent; `make demo` makes this one")
    texts: str | None = Field(
        None, description="JSON lines with a field text to draw from; default: the embedded corpus"
    )
    sizes: tuple[int, ...] = Field((10_000, 100_000, 1_000_000), description="records of each corpus, ascending")
    repeats: int = Field(3, ge=1, description="runs of each corpus but the largest, which is annotated once")
    ceiling_texts: int = Field(20_000, ge=1, description="texts that the ceiling computes in each turn")
    max_batch_tokens: int = Field(128, ge=16, description="padded tokens in a batch, of both")
    result: str = Field(str(ROOT / "benchmarks/results/annotate.json"), description="JSON file to write")


class Annotation:
    """Runs `serving/annotate.py`; its processes have a mark in their environment."""

    def __init__(self, config: AnnotateBenchmark, source: Path, output: Path) -> None:
        self._mark, self._output = f"annotate-{uuid.uuid4()}", output
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [
                sys.executable, "serving/annotate.py", f"bundle={Path(config.bundle).absolute()}", f"input={source}",
                f"output={output}", f"engine.max_batch_tokens={config.max_batch_tokens}",
            ],
            cwd=ROOT, env=os.environ | {"BERT_AGENT_BENCH": self._mark}, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def watch(self) -> list[Figures]:
        """Waits for its end; returns the memory of all its processes and the number of finished shards, every second."""
        points, began = [], time.monotonic()
        while self._process.poll() is None:
            points.append({"s": round(time.monotonic() - began, 1), "shards": self._shards(), **self._memory()})
            time.sleep(_SAMPLE_EVERY_S)
        if self._process.returncode:
            self._log.seek(0)
            raise SystemExit(f"error: the annotation failed\n{self._log.read()}")
        return points

    def _shards(self) -> int:
        return sum(1 for _ in (self._output / "progress").glob("part-*.json"))

    def _memory(self) -> Figures:
        """Memory of the workers and of all processes; shared pages count once."""
        found = {"workers_mib": 0.0, "all_mib": 0.0}
        for process in marked_processes(self._mark):
            size = memory_bytes(process) / 2**20
            found["all_mib"] += size
            with suppress(psutil.Error):
                found["workers_mib"] += size if "Annotator" in " ".join(process.cmdline()) else 0
        return {name: round(size, 1) for name, size in found.items()}


def main(config: AnnotateBenchmark) -> None:
    """Runs the ceiling and the command in turns, smallest corpus first."""
    texts = _texts(config)
    runs: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as directory:
        sample = _write(Path(directory) / "sample.jsonl", texts, config.ceiling_texts)
        for size in config.sizes:
            source = _write(Path(directory) / f"{size}.jsonl", texts, size)
            for turn in range(config.repeats if size < max(config.sizes) else 1):
                run = _turn(config, sample, source, Path(directory) / f"out-{size}-{turn}")
                runs.setdefault(str(size), []).append(run)
                print(f"{size}: {json.dumps({name: run[name] for name in _SHOWN})}", flush=True)
            source.unlink()
    result = {
        "runs": runs,
        **_metadata(config, texts),
        "summary": {size: _summary(found) for size, found in runs.items()},
    }
    Path(config.result).parent.mkdir(parents=True, exist_ok=True)
    Path(config.result).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for aim in aims(result["summary"]):
        print(aim)


def _turn(config: AnnotateBenchmark, sample: Path, source: Path, output: Path) -> Figures:
    """One annotation between two measurements of the ceiling, since the machine's speed drifts."""
    before = _ceiling(config, sample)
    points = Annotation(config, source, output).watch()
    after = _ceiling(config, sample)
    result = json.loads((output / "manifest.json").read_text())["result"]
    size = int(source.stem)
    rate = size / result["annotating_seconds"]
    top = {name: statistics.mean([before[name], after[name]]) for name in before}
    return {
        "sentences_per_s": rate,
        "sentences_per_s_per_core": rate / usable_cores(),
        "seconds": result["seconds"],
        "annotating_seconds": result["annotating_seconds"],
        "ceiling": {"before": before, "after": after},
        "over_ceiling": rate / top["tokenised_before"],
        "over_ceiling_that_tokenises": rate / top["tokenised_in_loop"],
        "not_once": _not_once(output, size),
        "peak_mib": max(point["all_mib"] for point in points),
        "workers_peak_mib": max(point["workers_mib"] for point in points),
        "memory": points[:: max(1, len(points) // 50)],
    }


_SHOWN = ("sentences_per_s", "seconds", "over_ceiling", "over_ceiling_that_tokenises", "not_once", "peak_mib")


def _not_once(output: Path, size: int) -> int:
    """Number of records that are missing, duplicate or out of order."""
    found = (json.loads(line)["id"] for file in sorted(output.glob("part-*.jsonl")) for line in file.open())
    return sum(given != expected for given, expected in itertools.zip_longest(found, range(size)))


def _ceiling(config: AnnotateBenchmark, sample: Path) -> Figures:
    arguments = [str(Path(config.bundle).absolute()), str(sample), str(config.max_batch_tokens)]
    done = subprocess.run(
        [sys.executable, __file__, "ceiling", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def ceiling(bundle: str, sample: str, max_batch_tokens: str) -> None:
    """Runs in a process of its own; prints sentences/s of the sessions alone, and with tokenising in the same loop."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from serving.inference.engine import Engine, EngineConfig

    cores = usable_cores()
    settings = EngineConfig(sessions=cores, threads_per_session=1, max_batch_tokens=int(max_batch_tokens))
    engine = Engine(Bundle.load(bundle), settings, num_cpus=cores)
    engine.warm_up()
    texts = _read(Path(sample))
    print(
        json.dumps(
            {"tokenised_before": _sessions_alone(engine, texts), "tokenised_in_loop": _with_tokenising(engine, texts)}
        )
    )


def _sessions_alone(engine: Any, texts: list[str]) -> float:
    from agent.batching import cut_by_length, pad

    windows = [window for document in engine.encode(texts) for window in document.windows]
    cuts = cut_by_length([len(window.input_ids) for window in windows], max_tokens=engine.config.max_batch_tokens)
    batches = [pad([windows[index] for index in cut], engine.bundle.encoder.pad_id) for cut in cuts]
    return len(texts) / _clock(lambda batch: engine.forward(batch) is None, batches, engine.plan.sessions)


def _with_tokenising(engine: Any, texts: list[str]) -> float:
    chunks = [texts[first : first + _CHUNK] for first in range(0, len(texts), _CHUNK)]
    return len(texts) / _clock(lambda chunk: engine.run(engine.encode(chunk)) is None, chunks, engine.plan.sessions)


def _clock(work: Any, items: list[Any], threads: int) -> float:
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, items))
    return time.perf_counter() - began


def _texts(config: AnnotateBenchmark) -> list[str]:
    if config.texts is None:
        count = min(_MOST_DISTINCT, max(config.sizes))
        return [sentence.text for sentence in corpus.generate(sizes={"train": count})["train"]]
    return _read(Path(config.texts))


def _read(file: Path) -> list[str]:
    with file.open(encoding="utf-8") as stream:
        return [json.loads(line)["text"] for line in stream]


def _write(file: Path, texts: list[str], count: int) -> Path:
    """Writes `count` records, repeating the texts as needed."""
    with file.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(itertools.islice(itertools.cycle(texts), count)):
            stream.write(json.dumps({"id": number, "text": text}, ensure_ascii=False) + "\n")
    return file


def _metadata(config: AnnotateBenchmark, texts: list[str]) -> Figures:
    return {
        "machine": machine(),
        "versions": installed_versions(_PACKAGES),
        "bundle": Bundle.load(config.bundle).digest,
        "max_batch_tokens": config.max_batch_tokens,
        "distinct_texts": len(texts),
        "characters_per_text": round(statistics.mean(map(len, texts)), 1),
    }


def _summary(runs: list[Figures]) -> Figures:
    """Medians of the runs, and the spread of their rates."""
    names = ("sentences_per_s", "sentences_per_s_per_core", "seconds", "over_ceiling", "over_ceiling_that_tokenises")
    rates = [run["sentences_per_s"] for run in runs]
    return {
        **{name: round(statistics.median(run[name] for run in runs), 3) for name in names},
        "spread": round((max(rates) - min(rates)) / statistics.median(rates), 3),
        "not_once": sum(run["not_once"] for run in runs),
        "peak_mib": max(run["peak_mib"] for run in runs),
        "workers_peak_mib": max(run["workers_peak_mib"] for run in runs),
    }


def aims(summary: Figures) -> list[Aim]:
    """The aims for the largest corpus; memory relative to the smallest."""
    smallest, largest = (summary[pick(summary, key=int)] for pick in (min, max))
    grown = largest["workers_peak_mib"] / smallest["workers_peak_mib"] if len(summary) > 1 else None
    return [
        Aim("annotate: sentences/s/core over the sorted ceiling", largest["over_ceiling"], 0.95),
        Aim("annotate: the same, where the ceiling tokenises too", largest["over_ceiling_that_tokenises"], 0.95),
        Aim("annotate: memory of the workers, largest corpus over smallest", grown, 1.1, at_least=False),
        Aim("annotate: records missing, twice or out of order", sum(s["not_once"] for s in summary.values()), 0, at_least=False),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["ceiling"]:
        ceiling(*sys.argv[2:])
    else:
        sys.exit(cli.run(AnnotateBenchmark, main, usage=__doc__ or ""))
