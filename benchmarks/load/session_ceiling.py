"""What the same sessions can do when texts come from memory: no HTTP, no tokenising. Run as a program by benchmarks/serving_throughput.py."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent.batching import cut_by_length
from agent.bundle import Bundle
from agent.encoding import Window
from serving.inference.engine import Engine, EngineConfig

Figures = dict[str, Any]
SINGLE_WINDOW, SORTED_WINDOW = 32, 8 * 32
SINGLE_TOKENS = 128
SORTED_TOKENS = (128, 256, 512)
_LONE_TEXTS = 300


def measure(bundle: str, texts: Sequence[str], seconds: float, cores: int) -> Figures:
    """One session of one thread for each core.

    Returns:
        `single_texts_per_s`: windows of 32 random texts, sorted, cut at 128 padded tokens. `sorted_texts_per_s`: windows of
        256, the best budget counts. `unbatched_texts_per_s`: one by one. `bare_p50_s`: one text on one idle session.
    """
    engine = Engine(
        Bundle.load(bundle), EngineConfig(provider="cpu", sessions=cores, threads_per_session=1), num_cpus=cores
    )
    engine.prepare()
    windows = [window for document in engine.encode(texts) for window in document.windows]
    by_budget = {
        budget: _rate(engine, cores, seconds, _batches(windows, SORTED_WINDOW, budget)) for budget in SORTED_TOKENS
    }
    return {
        "bare_p50_s": _bare(engine, windows),
        "single_texts_per_s": _rate(engine, cores, seconds, _batches(windows, SINGLE_WINDOW, SINGLE_TOKENS)),
        "sorted_texts_per_s": max(by_budget.values()),
        "sorted_texts_per_s_by_tokens": by_budget,
        "unbatched_texts_per_s": _rate(engine, cores, seconds / 2, _batches(windows, 1, SINGLE_TOKENS)),
    }


def _batches(windows: Sequence[Window], size: int, budget: int) -> Callable[[], Iterator[list[Window]]]:
    def endless() -> Iterator[list[Window]]:
        draw = random.Random(0)
        while True:
            drawn = draw.choices(windows, k=size)
            for batch in cut_by_length([len(window.input_ids) for window in drawn], max_tokens=budget):
                yield [drawn[index] for index in batch]

    return endless


def _rate(engine: Engine, cores: int, seconds: float, batches: Callable[[], Iterator[list[Window]]]) -> float:
    """Windows a second of as many threads as there are sessions, fed from one stream of batches."""
    stream, lock, counts = batches(), threading.Lock(), [0] * cores
    begun = time.monotonic()

    def work(number: int) -> None:
        while time.monotonic() - begun < seconds:
            with lock:
                batch = next(stream)
            engine.forward_windows(batch)
            counts[number] += len(batch)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - begun)


def _bare(engine: Engine, windows: Sequence[Window]) -> float:
    """Median seconds of one text."""
    times = []
    for window in random.Random(0).choices(windows, k=_LONE_TEXTS):
        begun = time.perf_counter()
        engine.forward_windows([window])
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    order = json.load(sys.stdin)
    print(json.dumps(measure(**order)))
