"""The aims and tables of benchmarks/compressed_agents.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.aim import Aim
from compression.reporting.frontier_plot import Point

ORIGINAL, RIVAL = "PyTorch fp32, eager", "optimum, dynamic int8"


def find_aims(rows: Sequence[Mapping[str, Any]], min_kept: float) -> list[Aim]:
    """The aims for the fastest recipe that keeps enough F1."""
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
    """The points of the plot, relative to the original."""
    original = rows[0]
    return [
        Point(row["name"], row["sentences_per_s"] / original["sentences_per_s"], row["test_f1"] / original["test_f1"])
        for row in rows
    ]


def after_each_step(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measurements after each step in a recipe's report (dev split), without latencies."""
    rows = [(row, row["measurement"]) for row in report["step_rows"] if row["measurement"]]
    original = rows[0][1]["quality"]["metrics"]["f1"]
    copied = ("size_bytes", "parameters", "flops_per_token", "calibration_error")
    return [
        {
            "step": row["kind"],
            "seconds": row["seconds"],
            **{name: found[name] for name in copied},
            "dev_f1": found["quality"]["metrics"]["f1"],
            "kept": found["quality"]["metrics"]["f1"] / original,
            "same_words": found["agreement"]["words"],
            "speed": row["speed"],
        }
        for row, found in rows
    ]


def steps_table(recipes: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A table of the measurements after each step."""
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
    """Median latency of the shortest sentence."""
    return float(row["latency_ms"][min(row["latency_ms"])]["median_ms"])


def table(rows: Sequence[Mapping[str, Any]], article_tokens: int) -> list[str]:
    """A table of all models."""
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
