"""Latency and throughput. Models are timed in turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from agent.batching import Batch, pad
from agent.encoding import Window
from agent.evaluation import Forward
from compression.reporting.compression_report import Latency

ItemT = TypeVar("ItemT")
LATENCY_TOKENS = (16, 64, 128)
_TURNS = 5  # calls of a model in a row before the next model's turn


class Throughput(NamedTuple):
    """Sentences and tokens per second; padding does not count."""

    sentences_per_s: float
    tokens_per_s: float


class TimeBudget(NamedTuple):
    """How long to measure: a number of rounds, fewer when the seconds are spent, at least one."""

    rounds: int
    budget_s: float

    def turns(self, models: Mapping[str, ItemT]) -> Iterator[tuple[str, ItemT]]:
        """Yields every model once in each round."""
        started = time.perf_counter()
        for _ in range(self.rounds):
            yield from models.items()
            if time.perf_counter() - started > self.budget_s:
                return


def latencies(
    forwards: Mapping[str, Forward], *, max_tokens: int, vocabulary: int, budget: TimeBudget
) -> dict[str, dict[int, Latency]]:
    """Times one sentence at a time, for each length in tokens that the model can take."""
    lengths = [tokens for tokens in LATENCY_TOKENS if tokens <= max_tokens] or [max_tokens]
    share = TimeBudget(budget.rounds, budget.budget_s / len(lengths))
    found: dict[str, dict[int, Latency]] = {name: {} for name in forwards}
    for tokens in lengths:
        batch = _random_sentence(tokens, vocabulary)
        times: dict[str, list[float]] = {name: [] for name in forwards}
        for name, forward in share.turns(forwards):
            forward(batch)  # not timed: the previous model's data is in the caches
            times[name] += [seconds_of(forward, batch) for _ in range(_TURNS)]
        for name, seconds in times.items():
            low, middle, high = np.percentile(np.array(seconds) * 1e3, (10, 50, 90)).tolist()
            found[name][tokens] = Latency(median_ms=middle, p10_ms=low, p90_ms=high)
    return found


def evenly_spaced(examples: Sequence[ItemT], count: int) -> Sequence[ItemT]:
    """`count` examples, evenly spaced, so that their lengths are distributed as those of all."""
    step = max(1, len(examples) // count)
    return examples[::step][:count]


def batches_by_length(windows: Sequence[Window], *, pad_id: int, batch_size: int) -> list[Batch]:
    """Windows sorted by length, in padded batches."""
    ordered = sorted(windows, key=lambda window: len(window.input_ids))
    return [pad(ordered[first : first + batch_size], pad_id) for first in range(0, len(ordered), batch_size)]


def throughputs(
    forwards: Mapping[str, Forward], batches: Mapping[str, Sequence[Batch]], *, budget: TimeBudget
) -> dict[str, Throughput]:
    """Times whole passes over batches; the fastest pass of each model counts.

    Args:
        forwards: Models by name.
        batches: For each model the same sentences, batched alike, so that none is faster by padding less. A model with
            another tokenizer has other numbers of tokens.
    """
    best = dict.fromkeys(forwards, float("inf"))
    for name, forward in budget.turns(forwards):
        best[name] = min(best[name], sum(seconds_of(forward, batch) for batch in batches[name]))
    return {name: _throughput(batches[name], seconds) for name, seconds in best.items()}


def seconds_of(forward: Forward, batch: Batch) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    forward(batch)
    return time.perf_counter() - started


class CpuContention:
    """Measures how much CPU other processes used during a measurement.

    Threads that wait for each other (PyTorch's after every matrix product) can become fifty times slower when another process
    takes a core from one of them, while other runtimes hardly change: ratios of speeds are then meaningless.
    """

    def __init__(self) -> None:
        self._before = _cpu_seconds()

    def contention(self, threads: int) -> float | None:
        """Mean number of cores that the measured threads shared with other processes; None without /proc/stat."""
        before, after = self._before, _cpu_seconds()
        if before is None or after is None:
            return None
        wall, busy, own = (end - begin for begin, end in zip(before, after, strict=True))
        others = (busy - own) / max(wall, 1e-9)
        return max(0.0, others + threads - (os.cpu_count() or 1))


def _throughput(batches: Sequence[Batch], seconds: float) -> Throughput:
    rows = sum(len(batch.input_ids) for batch in batches)
    return Throughput(rows / seconds, sum(batch.num_tokens for batch in batches) / seconds)


def machine() -> str:
    """The processor's name and its number of cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def _random_sentence(tokens: int, vocabulary: int) -> Batch:
    ids = np.random.default_rng(tokens).integers(0, vocabulary, (1, tokens))
    asked = np.zeros_like(ids)
    asked[:, tokens // 2] = 1  # a mask, where a vocabulary is chosen from
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids), asked)


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Seconds of wall clock, of all cores busy or stolen by a hypervisor, and of this process."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)  # proc(5)
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return own.elapsed, busy, own.user + own.system
