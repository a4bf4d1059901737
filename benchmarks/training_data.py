"""Growth of memory and time with the size of the training data, streamed and in memory.

    python benchmarks/training_data.py [sizes=[10000,100000,1000000]] [workdir=/tmp]

Each measurement is a process of its own: the driver that reads and encodes, and a worker that plans and collates. Writes
benchmarks/results/training_data.json and prints a table. Needs about 600 bytes of disk for a sentence, for the time of the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/training_data.json"
GOAL = 10_000_000  # sentences
BASE = 20_000  # sentences that are drawn; the others are theirs with another number at the end
LARGEST_IN_MEMORY = 100_000
BATCHES = 2000
GIB = 2**30


class DataBenchmark(Config):
    """What is measured."""

    sizes: tuple[int, ...] = Field((10_000, 100_000, 1_000_000), description="sentences, ascending, at least two")
    workdir: str = Field("/tmp", description="where corpora and windows go; removed afterwards")
    measure: Literal["all", "stream", "memory", "worker"] = Field("all", description="for the processes it starts")


def main(config: DataBenchmark) -> None:
    """Measures everything, or one thing in a process of its own."""
    parts = {"stream": measure_driver, "memory": measure_driver, "worker": measure_worker}
    if config.measure != "all":
        print(json.dumps(parts[config.measure](Path(config.workdir), config.measure)))
        return
    rows = []
    for size in config.sizes:
        with tempfile.TemporaryDirectory(prefix="training_data.", dir=config.workdir) as directory:
            rows.append(measure_size(Path(directory), size))
            print_row(rows[-1])
    result = {
        "machine": machine(),
        "load_before": os.getloadavg(),
        "rows": rows,
        "growth": growth(rows),
        "plan_of_10_million": plan_of_goal(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print_aims(result)


def measure_size(directory: Path, size: int) -> dict[str, Any]:
    """All figures for one corpus."""
    row: dict[str, Any] = {"sentences": size, "text_bytes": write_corpus(directory, size)}
    row["stream"] = run_part("stream", directory)
    row["worker"] = run_part("worker", directory)
    if size <= LARGEST_IN_MEMORY:
        row["memory"] = run_part("memory", directory)
        same = ("digest", "windows", "tokens")
        assert [row["memory"][key] for key in same] == [row["stream"][key] for key in same]
    return row


def run_part(measure: str, directory: Path) -> dict[str, Any]:
    """Starts this program for one measurement and reads the last line it prints."""
    done = subprocess.run(
        [sys.executable, __file__, f"measure={measure}", f"workdir={directory}"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def write_corpus(directory: Path, size: int) -> int:
    """Writes train.jsonl of that many sentences, and small dev and test files; returns the bytes of train."""
    from agent.corpus import generate
    from agent.corpus.task_records import spans_record

    drawn = generate(sizes={"train": min(size, BASE), "dev": 300, "test": 300})
    for name in ("dev", "test"):
        lines = [json.dumps(spans_record(sentence)) + "\n" for sentence in drawn[name]]
        (directory / f"{name}.jsonl").write_text("".join(lines))
    with (directory / "train.jsonl").open("w") as stream:
        for number in range(size):
            record = spans_record(drawn["train"][number % BASE])
            record["text"] = f"{record['text']} ({number // BASE})"
            stream.write(json.dumps(record) + "\n")
    return (directory / "train.jsonl").stat().st_size


def measure_driver(directory: Path, mode: str) -> dict[str, Any]:
    """Reads and encodes as `training/run.py` does; streaming a second time uses the cache."""
    from agent.data import DataConfig
    from agent.tasks import TokenClassification
    from cluster import ClusterConfig, connect
    from training.data.ingest import IngestConfig, open_data
    from training.model.models import ModelConfig, load_tokenizer, make_encoder

    encoder = make_encoder(load_tokenizer("minilm"), ModelConfig())
    if mode == "stream":
        connect(ClusterConfig(address="local", num_gpus=0, dashboard=False))
    ingest = IngestConfig(mode=mode, cache=str(directory / "cache") if mode == "stream" else None)
    before = memory("VmHWM")
    seconds = []
    for _ in range(2 if mode == "stream" else 1):
        started = time.perf_counter()
        data = open_data(
            DataConfig(path=str(directory)), TokenClassification(), ingest=ingest, seed=0, make_encoder=lambda: encoder
        )
        seconds.append(time.perf_counter() - started)
    found = {"seconds": seconds[0], "rss_before": before, "rss_peak": memory("VmHWM"), "digest": data.digest}
    found |= {"windows": len(data.train.labelled), "tokens": len(data.train.input_ids)}
    if mode == "stream":
        (directory / "store").write_text(json.dumps([str(data.train.directory), data.train.manifest.key]))
        store_bytes = sum(array.num_bytes for array in data.train.manifest.arrays.values())
        found |= {"seconds_again": seconds[1], "store_bytes": store_bytes}
    return found


def measure_worker(directory: Path, _: str) -> dict[str, Any]:
    """Plans an epoch and collates batches of random windows, as a training worker does."""
    from training.data.batch_plan import BatchConfig, plan_epoch
    from training.data.token_cache import open_store

    where, key = json.loads((directory / "store").read_text())
    windows, before = open_store(Path(where), key), memory("VmHWM")
    lengths = windows.lengths
    started = time.perf_counter()
    plan = plan_epoch(lengths, config=BatchConfig(tokens=1024), seed=0, epoch=0)
    found: dict[str, Any] = {"plan_seconds": time.perf_counter() - started, "steps": len(plan)}
    found["plan_bytes"] = plan.order.nbytes + plan.bounds.nbytes + plan.sequence.nbytes
    steps = range(min(len(plan), BATCHES))
    drop_cached(windows.directory)
    for state in ("cold", "warm"):
        started = time.perf_counter()
        rows = sum(len(windows.collate(plan[step], 0)[0].input_ids) for step in steps)
        found[f"collated_windows_per_s_{state}"] = rows / (time.perf_counter() - started)
    return found | {"rss_before": before, "rss_peak": memory("VmHWM"), "rss_of_its_own": memory("RssAnon")}


def drop_cached(directory: Path) -> None:
    """Drops files from the page cache, so that they are read from disk."""
    for file in directory.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def memory(name: str) -> int:
    """A memory figure of /proc/self/status in bytes. VmHWM is the peak, without that of a parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def growth(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Linear extrapolation from the two largest corpora to ten million sentences."""
    figures = {
        "driver_peak_bytes": lambda row: row["stream"]["rss_peak"],
        "worker_peak_bytes": lambda row: row["worker"]["rss_peak"],
        "worker_own_bytes": lambda row: row["worker"]["rss_of_its_own"],
        "stream_seconds": lambda row: row["stream"]["seconds"],
        "found_again_seconds": lambda row: row["stream"]["seconds_again"],
        "store_bytes": lambda row: row["stream"]["store_bytes"],
    }
    lines = {name: line(rows[-2:], figure) for name, figure in figures.items()}
    in_memory = [row for row in rows if "memory" in row]
    if len(in_memory) > 1:
        lines["memory_way_peak_bytes"] = line(in_memory[-2:], lambda row: row["memory"]["rss_peak"])
        lines["memory_way_seconds"] = line(in_memory[-2:], lambda row: row["memory"]["seconds"])
    return lines


def line(rows: Sequence[Mapping[str, Any]], figure: Any) -> dict[str, float]:
    """A figure's growth for a million sentences, and its value at ten million."""
    (first, second), (less, more) = (figure(row) for row in rows), (row["sentences"] for row in rows)
    slope = (second - first) / (more - less)
    return {"per_million": slope * 1e6, "at_10_million": second + slope * (GOAL - more)}


def plan_of_goal() -> dict[str, float]:
    """Time and memory of planning ten million windows."""
    import numpy as np

    from training.data.batch_plan import BatchConfig, plan_epoch

    lengths = np.clip(np.random.default_rng(0).lognormal(3, 0.6, GOAL), 3, 200).astype(np.int64)
    started = time.perf_counter()
    plan = plan_epoch(lengths, config=BatchConfig(tokens=1024), seed=0, epoch=0)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": plan.order.nbytes + plan.bounds.nbytes + plan.sequence.nbytes}


def print_row(row: Mapping[str, Any]) -> None:
    """One line for each process."""
    stream, worker = row["stream"], row["worker"]
    print(
        f"{row['sentences']:>10,} sentences, {row['text_bytes'] / 1e6:,.0f} MB of text, {stream['windows']:,} windows"
    )
    print(
        f"  stream  {stream['seconds']:8.1f} s ({stream['seconds_again']:.1f} s when found again)  "
        f"driver peak {stream['rss_peak'] / 1e6:,.0f} MB ({stream['rss_before'] / 1e6:,.0f} before)  "
        f"store {stream['store_bytes'] / 1e6:,.0f} MB"
    )
    if whole := row.get("memory"):
        print(
            f"  memory  {whole['seconds']:8.1f} s  driver peak {whole['rss_peak'] / 1e6:,.0f} MB ({whole['rss_before'] / 1e6:,.0f} before)"
        )
    print(
        f"  worker  plan {worker['plan_seconds']:.3f} s, {worker['plan_bytes'] / 1e6:.1f} MB, {worker['steps']:,} steps  "
        f"collate {worker['collated_windows_per_s_cold']:,.0f} windows/s cold, {worker['collated_windows_per_s_warm']:,.0f} warm  "
        f"peak {worker['rss_peak'] / 1e6:,.0f} MB ({worker['rss_of_its_own'] / 1e6:,.0f} of its own)",
        flush=True,
    )


def print_aims(result: Mapping[str, Any]) -> None:
    """The table of growth, then the aims."""
    for name, figures in result["growth"].items():
        unit, scale = ("MB", 1e6) if name.endswith("bytes") else ("s", 1)
        print(
            f"{name:24} +{figures['per_million'] / scale:,.1f} {unit} a million, {figures['at_10_million'] / scale:,.0f} {unit} at 10 million"
        )
    lines, plan = result["growth"], result["plan_of_10_million"]
    aims = {
        "driver memory at 10 million, GiB": (lines["driver_peak_bytes"]["at_10_million"] / GIB, 2),
        "memory of a worker's own at 10 million, GiB": (lines["worker_own_bytes"]["at_10_million"] / GIB, 2),
        "seconds to plan 10 million windows": (plan["seconds"], 5),
    }
    for name, (measured, bound) in aims.items():
        print(f"aim {name}: {measured:.2f} (aim {bound}) {'met' if measured <= bound else 'missed'}")


if __name__ == "__main__":
    sys.exit(cli.run(DataBenchmark, main, usage=__doc__ or ""))
