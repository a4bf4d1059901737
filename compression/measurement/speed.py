"""Clocks. All models are measured in turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from agent.encoding import Batch, Window, pad
from agent.evaluation import Forward
from compression.reporting.compression_report import Latency

ItemT = TypeVar("ItemT")
LATENCY_TOKENS = (16, 64, 128)
_TURNS = 5  # each model is called this often in a row before it is the next one's turn


class Throughput(NamedTuple):
    """Sentences, and tokens without padding, in a second."""

    sentences_per_s: float
    tokens_per_s: float


class ComputeCost(NamedTuple):
    """How long to measure: so many rounds of turns, fewer when the time is spent, never less than one."""

    rounds: int
    budget_s: float

    def turns(self, forwards: Mapping[str, Forward]) -> Iterator[tuple[str, Forward]]:
        """Yields every model once in every round."""
        started = time.perf_counter()
        for _ in range(self.rounds):
            yield from forwards.items()
            if time.perf_counter() - started > self.budget_s:
                return


def latencies(
    forwards: Mapping[str, Forward], *, max_tokens: int, vocabulary: int, effort: ComputeCost
) -> dict[str, dict[int, Latency]]:
    """Times one sentence at a time, of each length that the model can take."""
    lengths = [tokens for tokens in LATENCY_TOKENS if tokens <= max_tokens] or [max_tokens]
    share = ComputeCost(effort.rounds, effort.budget_s / len(lengths))
    found: dict[str, dict[int, Latency]] = {name: {} for name in forwards}
    for tokens in lengths:
        batch = _random_sentence(tokens, vocabulary)
        times: dict[str, list[float]] = {name: [] for name in forwards}
        for name, forward in share.turns(forwards):
            forward(batch)  # what the model before left in the caches is not this one's fault
            times[name] += [seconds_of(forward, batch) for _ in range(_TURNS)]
        for name, seconds in times.items():
            low, middle, high = np.percentile(np.array(seconds) * 1e3, (10, 50, 90)).tolist()
            found[name][tokens] = Latency(median_ms=middle, p10_ms=low, p90_ms=high)
    return found


def evenly(examples: Sequence[ItemT], count: int) -> Sequence[ItemT]:
    """So many of them, evenly spaced: their lengths are those of all."""
    step = max(1, len(examples) // count)
    return examples[::step][:count]


def neighbours_in_length(windows: Sequence[Window], *, pad_id: int, batch_size: int) -> list[Batch]:
    """Windows in padded batches, shortest first."""
    ordered = sorted(windows, key=lambda window: len(window.input_ids))
    return [pad(ordered[first : first + batch_size], pad_id) for first in range(0, len(ordered), batch_size)]


def throughputs(
    forwards: Mapping[str, Forward], batches: Mapping[str, Sequence[Batch]], *, effort: ComputeCost
) -> dict[str, Throughput]:
    """Times whole passes over batches; the best pass counts.

    Args:
        forwards: The models by name.
        batches: For each of them the same sentences in batches of the same kind, so that none is faster by padding less;
            where a model has a tokenizer of its own it pays for the sub-words that this one makes.
        effort: How long to measure.
    """
    best = dict.fromkeys(forwards, float("inf"))
    for name, forward in effort.turns(forwards):
        best[name] = min(best[name], sum(seconds_of(forward, batch) for batch in batches[name]))
    return {name: _flow(batches[name], seconds) for name, seconds in best.items()}


def seconds_of(forward: Forward, batch: Batch) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    forward(batch)
    return time.perf_counter() - started


class Neighbours:
    """How busy other processes kept the machine while something was measured.

    Threads that wait for each other (PyTorch's do at every product) can become fifty times slower when a neighbour takes
    a core from one of them, while others hardly change: ratios of speeds are then meaningless, so this is told.
    """

    def __init__(self) -> None:
        self._before = _cpu_seconds()

    def contention(self, threads: int) -> float | None:
        """Cores that the measured threads had to share with others, on average since then; None without /proc/stat."""
        before, after = self._before, _cpu_seconds()
        if before is None or after is None:
            return None
        wall, busy, own = (end - begin for begin, end in zip(before, after, strict=True))
        others = (busy - own) / max(wall, 1e-9)
        return max(0.0, others + threads - (os.cpu_count() or 1))


def _flow(batches: Sequence[Batch], seconds: float) -> Throughput:
    rows = sum(len(batch.input_ids) for batch in batches)
    return Throughput(rows / seconds, sum(batch.num_tokens for batch in batches) / seconds)


def machine() -> str:
    """The processor's name and how many cores it shows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def _random_sentence(tokens: int, vocabulary: int) -> Batch:
    ids = np.random.default_rng(tokens).integers(0, vocabulary, (1, tokens))
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids))


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Seconds: on the wall; that all cores were busy or stolen by a hypervisor; that this process computed."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)  # proc(5)
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return own.elapsed, busy, own.user + own.system
