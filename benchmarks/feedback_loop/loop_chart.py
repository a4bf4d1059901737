"""The chart of benchmarks/feedback_loop/loop_rounds.py: accuracy after each round with what was decided, and the wrong answers that were given until then."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

_MARKS = {"published": ("o", "published"), "refused": ("x", "refused"), "nothing to learn": ("s", "nothing to learn")}


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draws a result as benchmarks/feedback_loop/loop_rounds.py writes it.

    Args:
        result: With one round at least.
        file: For the picture; SVG is the same for the same result.
    """
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "bert-agent"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    _draw_accuracy(left, result)
    _draw_regret(right, result)
    first_late = result["config"]["rounds"] - result["config"]["rounds"] // 2
    for panel in (left, right):
        if len(result["rounds"]) > first_late:
            panel.axvline(first_late, color="gray", linestyle=":", label="the other half of the intents arrives")
        panel.grid(visible=True, alpha=0.25)
        panel.legend(fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def _draw_accuracy(panel: Any, result: Mapping[str, Any]) -> None:
    rounds = result["rounds"]
    scores = [result["first agent"], *(row["test accuracy"] for row in rounds)]
    panel.plot(range(len(scores)), scores, color="black", label="the loop")
    for decision, (mark, label) in _MARKS.items():
        chosen = [row for row in rounds if row["decision"] == decision]
        if chosen:
            places, values = [row["round"] for row in chosen], [row["test accuracy"] for row in chosen]
            panel.plot(places, values, mark, color="black", label=label)
    panel.axhline(result["first agent"], color="gray", linewidth=1.2, label="no loop")
    if result["supervised"] is not None:
        panel.axhline(result["supervised"], color="tab:blue", linewidth=1.2, label="all labels")
    panel.set(xlabel="round", ylabel="accuracy on the test split")


def _draw_regret(panel: Any, result: Mapping[str, Any]) -> None:
    for name, label, style in (
        ("loop", "the loop, answers as drawn", {"color": "black"}),
        ("loop, best answers", "the loop, best answers", {"color": "black", "linestyle": "--"}),
        ("no loop", "no loop, best answers", {"color": "gray"}),
    ):
        wrong = accumulate(((1 - row[name]) * row["asked"] for row in result["rounds"]), initial=0.0)
        panel.plot(range(len(result["rounds"]) + 1), list(wrong), label=label, **style)
    panel.set(xlabel="round", ylabel="wrong answers until then (regret)")
