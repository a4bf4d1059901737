"""Draws the score against speed, both relative to the original, with the Pareto frontier."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from compression.reporting.compression_report import CompressionReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREY = "#0072B2", "#B34700", "#5A5A5A"  # Okabe and Ito 2008, dark enough for text on white


class Point(NamedTuple):
    """A model in the plot.

    Attributes:
        name: Label of the mark.
        speed: Throughput relative to the original's.
        kept: Score relative to the original's on the same split.
        step: Whether it is the state after a step (dev split, hollow mark) and not a model file.
    """

    name: str
    speed: float
    kept: float
    step: bool = False


def frontier(points: Sequence[Point]) -> list[Point]:
    """The Pareto-optimal points in speed and score, slowest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (-one.speed, -one.kept)):
        if not best or point.kept > best[-1].kept:
            best.append(point)
    return best[::-1]


def points_of(report: CompressionReport) -> list[Point]:
    """The points of a run: the original, the states after steps, and the model files."""
    first = report.step_rows[0].measurement if report.step_rows else None
    found = [
        Point(f"after {row.kind}", row.speed, row.measurement.score / first.score, step=True)
        for row in report.step_rows
        if row.measurement and row.speed and first and first.score
    ]
    original = report.model_rows[0] if report.model_rows else None
    if original and original.score and original.sentences_per_s:
        found += [
            Point(row.name, row.sentences_per_s / original.sentences_per_s, row.score / original.score)
            for row in report.model_rows[1:]
            if row.sentences_per_s
        ]
    return [Point("original", 1.0, 1.0), *found]


def draw_frontier(file: Path, points: Sequence[Point]) -> None:
    """Writes the plot as SVG, with its text as text."""
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "bert-agent", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        _draw(figure.subplots(), points)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": "Score kept against speed"})
    words = html.escape(describe(points))
    file.write_text(stream.getvalue().replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1), encoding="utf-8")


def describe(points: Sequence[Point]) -> str:
    """The plot in words, as its text alternative."""
    words = ", ".join(f"{one.name} {one.speed:.2f} times as fast with {one.kept:.1%} of the score" for one in points)
    return f"Score kept against speed: {words}."


def _draw(axes: Axes, points: Sequence[Point]) -> None:
    finished = [one for one in points if not one.step]
    best = frontier(finished if len(finished) > 1 else points)
    axes.step(
        [one.speed for one in best], [one.kept * 100 for one in best], where="pre", color=_GREY, linewidth=1, alpha=0.7
    )
    for one in points:
        colour = _ORANGE if one.step else _BLUE
        axes.plot(
            [one.speed], [one.kept * 100], marker="o", color=colour, markerfacecolor="white" if one.step else colour
        )
        axes.annotate(
            one.name, (one.speed, one.kept * 100), (5, 5), textcoords="offset points", fontsize=8, color=colour
        )
    axes.set_xlabel("sentences/s over the original's, batches of 32")
    axes.set_ylabel(
        "score kept, % (hollow: after a step, dev split)" if any(one.step for one in points) else "score kept, %"
    )
    axes.margins(x=0.18, y=0.18)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
