"""Draws the learning curve: loss by step, the score on the dev split by epoch."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.tracking.metrics_log import step_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float64 = NDArray[np.float64]

_MAX_POINTS = 200  # more cannot be distinguished at this width, and the file stays at a few kB
_NEIGHBOURS = 11  # points of the moving mean
_BLUE, _ORANGE = (
    "#0072B2",
    "#B34700",
)  # distinguishable to colour-blind eyes (Okabe and Ito 2008), dark enough for text on white


def draw_curve(
    file: Path, metrics_log: Sequence[str], history: Sequence[Mapping[str, float]], score: str = "F1"
) -> None:
    """Writes the curve as SVG, its text as text.

    Args:
        file: Where.
        metrics_log: JSON lines with step rows.
        history: Epoch rows.
        score: What their score is called.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "bert-agent", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.subplots()
        _draw_loss(axes, step_rows(metrics_log))
        _draw_quality(axes.twinx(), history, score)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": "Learning curve"})
    file.write_text(_described(stream.getvalue(), describe_curve(history, score)), encoding="utf-8")


def describe_curve(history: Sequence[Mapping[str, float]], score: str = "F1") -> str:
    """A description of the curve, for screen readers."""
    quality = ", ".join(f"{row['dev_score']:.4f}" for row in history)
    return f"Learning curve. {score} on the dev split by epoch: {quality}. Mean loss by epoch: " + ", ".join(
        f"{row['loss']:.4f}" for row in history
    )


def _draw_loss(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    steps, losses = thin(rows)
    axes.plot(steps, losses, color=_BLUE, alpha=0.3, linewidth=1)
    axes.plot(steps, smooth(losses), color=_BLUE, linewidth=2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (line)", color=_BLUE)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.spines["top"].set_visible(False)


def _draw_quality(axes: Axes, history: Sequence[Mapping[str, float]], score: str) -> None:
    steps, values = [row["step"] for row in history], [row["dev_score"] for row in history]
    axes.plot(steps, values, color=_ORANGE, marker="o", linestyle="--", linewidth=1.5)
    best = int(np.flatnonzero(values == np.max(values))[-1])
    point = (steps[best], values[best])
    axes.annotate(f"{values[best]:.4f}", point, (0, 7), textcoords="offset points", ha="right", color=_ORANGE)
    axes.set_ylabel(f"{score}, dev split (dots)", color=_ORANGE)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.spines["top"].set_visible(False)


def thin(rows: Sequence[Mapping[str, Any]]) -> tuple[Float64, Float64]:
    """At most 200 points: the last step and the mean loss of neighbours. Losses that are no numbers are left out."""
    steps = np.array([row["step"] for row in rows], np.float64)
    losses = np.array([row["loss"] for row in rows], np.float64)
    known = np.isfinite(losses)
    steps, losses = steps[known], losses[known]
    parts = min(_MAX_POINTS, len(steps))
    if not parts:
        return steps, losses
    return (
        np.array([part[-1] for part in np.array_split(steps, parts)]),
        np.array([part.mean() for part in np.array_split(losses, parts)]),
    )


def smooth(values: Float64) -> Float64:
    """The mean of a point and its neighbours, fewer of them at both ends; it does not lag behind."""
    kernel = np.ones(min(_NEIGHBOURS, len(values)))
    if not len(kernel):
        return values
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _described(svg: str, words: str) -> str:
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(words)}" ', 1)
