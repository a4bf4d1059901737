"""The benchmark of annotation counts records right, and its aims are those of the largest corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.annotation_throughput import _not_once, _summary, aims


def write(output: Path, *shards: list[int]) -> Path:
    for number, ids in enumerate(shards):
        lines = "".join(json.dumps({"id": item}) + "\n" for item in ids)
        (output / f"part-{number:06}.jsonl").write_text(lines)
    return output


@pytest.mark.parametrize(
    ("shards", "wrong"),
    [(([0, 1], [2, 3]), 0), (([0, 1], [3]), 2), (([0, 1], [1, 2, 3]), 3), (([0, 1], [3, 2]), 2), (([0, 1],), 2)],
)
def test_records_that_are_missing_double_or_out_of_order_are_counted(
    tmp_path: Path, shards: tuple[list[int], ...], wrong: int
) -> None:
    assert _not_once(write(tmp_path, *shards), 4) == wrong


def run(rate: float, over: float, memory: float) -> dict[str, float]:
    return {
        "sentences_per_s": rate, "sentences_per_s_per_core": rate / 2, "seconds": 1.0, "over_ceiling": over,
        "over_ceiling_that_tokenises": over + 0.1, "not_once": 0, "peak_mib": memory * 4, "workers_peak_mib": memory,
    }  # fmt: skip


def test_aims_are_of_the_largest_corpus_and_memory_is_beside_the_smallest() -> None:
    summary = {
        "9000": _summary([run(80.0, 0.5, 90.0), run(120.0, 0.7, 100.0), run(100.0, 0.6, 95.0)]),
        "10000": _summary([run(100.0, 0.9, 105.0)]),
    }
    assert (summary["9000"]["over_ceiling"], summary["9000"]["spread"]) == (0.6, 0.4)
    assert [aim.measured for aim in aims(summary)] == pytest.approx([0.9, 1.0, 1.05, 0])
    assert [aim.met for aim in aims(summary)] == [False, True, True, True]


def test_without_a_second_corpus_growth_is_not_measured() -> None:
    assert aims({"10": _summary([run(100.0, 1.0, 100.0)])})[2].measured is None
