"""Writes the report of a run into a directory: report.md, report.json, metrics.jsonl, learning_curve.svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.tasks import BaseTask
from training.loop.worker_io import TrainingOutcome
from training.report.content import RunReport
from training.report.curve import draw_curve
from training.report.findings import find
from training.report.report_page import render_page

CURVE = "learning_curve.svg"


def write_report(  # noqa: PLR0913  # a report is of many things, each by its name
    directory: Path,
    *,
    task: BaseTask[Any],
    outcome: TrainingOutcome,
    test: Sequence[Any],
    model: str,
    data: str,
    seed: int,
    settings: Mapping[str, str],
) -> None:
    """Writes the report.

    Args:
        directory: Where; it exists.
        task: With its labels.
        outcome: Of the run.
        test: Examples of the test split, in the order of the predictions.
        model, data, seed: For the summary, in words.
        settings: Other settings worth showing, by name.
    """
    report = RunReport(
        model=model,
        data=data,
        seed=seed,
        settings=settings,
        description=outcome.description,
        num_test=len(test),
        best_epoch=outcome.best_epoch,
        before=outcome.before,
        after=outcome.after,
        dev=outcome.dev,
        epochs=tuple({name: value for name, value in row.items() if name != "kind"} for row in outcome.history),
        findings=find(task, test, outcome.predictions),
    )
    draw_curve(directory / CURVE, outcome.metrics_log, outcome.history, outcome.after.score_name)
    (directory / "metrics.jsonl").write_text("".join(f"{line}\n" for line in outcome.metrics_log), encoding="utf-8")
    (directory / "report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (directory / "report.md").write_text(render_page(report, CURVE), encoding="utf-8")
