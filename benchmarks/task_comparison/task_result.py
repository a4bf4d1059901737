"""From rounds of benchmarks/tasks.py to figures with their spread, aims and a table. Pure arithmetic."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common.aim import Aim
from benchmarks.task_comparison.serving_rates import serving_ratios
from benchmarks.trainer_comparison.summary import rates

Entry = dict[str, Any]
"""What the result file holds of one task: `train` and `serve` by round, `compressed`, and `figures` made of these."""

TRAINING, SERVING, KEPT = 1.25, 8.0, 0.99
HEAD = (
    f"{'task':28} {'training texts/s, ours / Trainer (ratio, spread)':52} {'score, ours / Trainer':24} "
    f"{'served texts/s, ours / pipeline (ratio, spread)':52} int8 kept"
)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def figures(entry: Entry) -> dict[str, Any]:
    """All that is known of a task."""
    found: dict[str, Any] = {}
    if rounds := whole_rounds(entry.get("train", {}), ("ours", "trainer")):
        speeds = [{who: rates(one[who]["steps"])["sentences_per_s"] for who in ("ours", "trainer")} for one in rounds]
        found["train"] = {
            **{who: spread([speed[who] for speed in speeds]) for who in ("ours", "trainer")},
            "ratio": spread([speed["ours"] / speed["trainer"] for speed in speeds]),
        }
        found["score"] = _scores(rounds)
    if "compressed" in entry:
        found["kept"] = entry["compressed"]["compressed"] / entry["compressed"]["trained"]
    if rounds := whole_rounds(entry.get("serve", {}), ("ours", "pipeline", "bare")):
        each = [serving_ratios(one, entry["batch_texts"]) for one in rounds]
        found["serve"] = {name: spread([one[name] for one in each]) for name in each[0]}
    return found


def _scores(rounds: Sequence[Entry]) -> dict[str, Any]:
    """Means over the rounds, each of which has a seed of its own."""
    names = [name for name in rounds[0]["ours"]["test_metrics"] if "." not in name]
    means = {
        who: {name: statistics.fmean(one[who]["test_metrics"][name] for one in rounds) for name in names}
        for who in ("ours", "trainer")
    }
    primary = {who: statistics.fmean(one[who]["test_f1"] for one in rounds) for who in ("ours", "trainer")}
    difference = spread([one["ours"]["test_f1"] - one["trainer"]["test_f1"] for one in rounds])
    return {**primary, "difference": primary["ours"] - primary["trainer"], "differences": difference, "metrics": means}


def whole_rounds(rounds: Mapping[str, Entry], parts: Sequence[str]) -> list[Entry]:
    """The rounds that hold all of these."""
    return [one for one in rounds.values() if all(part in one for part in parts)]


def aims(tasks: Mapping[str, Entry]) -> list[Aim]:
    """Of all tasks; not measured where something is missing."""
    found = []
    for name, entry in tasks.items():
        known = entry.get("figures", {})
        found += [
            Aim(f"{name}: training over Trainer", known.get("train", {}).get("ratio", {}).get("median"), TRAINING),
            Aim(f"{name}: score less Trainer's", known.get("score", {}).get("difference"), 0.0),
            Aim(f"{name}: serving over pipeline", known.get("serve", {}).get("ratio", {}).get("median"), SERVING),
            Aim(f"{name}: score kept by int8", known.get("kept"), KEPT),
        ]
    return found


def line(name: str, known: Mapping[str, Any]) -> str:
    """A task's row of the table."""
    train, score, serve = known.get("train"), known.get("score"), known.get("serve")
    speeds = (
        f"{train['ours']['median']:.1f} / {train['trainer']['median']:.1f} {_ratio(train['ratio'])}" if train else "-"
    )
    scores = f"{score['ours']:.4f} / {score['trainer']:.4f}" if score else "-"
    served = "-"
    if serve:
        ours = max(serve["ours_single"]["median"], serve["ours_batch"]["median"])
        rival = max(serve[who]["median"] for who in ("pipeline_single", "pipeline_batch", "bare_pipeline"))
        served = f"{ours:.1f} / {rival:.1f} {_ratio(serve['ratio'])}"
    kept = f"{known['kept']:.1%}" if "kept" in known else "-"
    return f"{name:28} {speeds:52} {scores:24} {served:52} {kept}"


def _ratio(found: Mapping[str, float]) -> str:
    return f"({found['median']:.2f}, {found['low']:.2f}-{found['high']:.2f})"
