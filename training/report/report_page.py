"""Renders the report of a run as Markdown: scores, mistakes, rates, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.markdown import escape, table, verbatim
from training.report.content import RunReport
from training.report.curve import describe_curve
from training.report.mistakes import confusion, worst
from training.tracking.training_progress import duration

_COLUMNS = (
    ("epoch", "epoch", ".0f"),
    ("steps", "step", ",.0f"),
    ("loss", "loss", ".4f"),
    ("dev {score}", "dev_score", ".4f"),
    ("learning rate", "learning_rate", ".2e"),
    ("seconds", "seconds", ",.1f"),
    ("sentences/s", "sentences_per_s", ",.0f"),
    ("tokens/s", "tokens_per_s", ",.0f"),
    ("padding", "padding_share", ".1%"),
    ("waiting for batches", "host_share", ".1%"),
)


def render_page(report: RunReport, curve: str) -> str:
    """The page as Markdown; `curve` is the picture's file beside it."""
    sections = [
        ["# Training report", "", _summary(report)],
        [f"![{escape(describe_curve(report.epochs, report.after.score_name))}]({curve})"],
        ["## Scores on the test split", "", *_scores(report)],
        ["## What was taken for what", "", *confusion(report.findings)],
        ["## Examples with most errors", "", *worst(report.findings, report.num_test)],
        ["## Epochs", "", *_epochs(report.epochs, report.after.score_name)],
        ["## Settings", "", *_settings(report)],
    ]
    return "\n\n".join("\n".join(lines).rstrip() for lines in sections) + "\n"


def _summary(report: RunReport) -> str:
    seconds = sum(row["seconds"] for row in report.epochs)
    return (
        f"{escape(report.model)}, fine-tuned on {escape(report.data)}, reaches **{report.after.score_name} {report.after.value:.4f} on the test split** "
        f"({report.num_test:,} examples, {report.after.support:,} gold items; scored by {report.after.mode}); before fine-tuning it was "
        f"{report.before.value:.4f}. These are the weights of epoch {report.best_epoch} of {len(report.epochs)}, the best on the dev "
        f"split ({report.dev.score_name} {report.dev.value:.4f}). Seed {report.seed}, one run: other seeds give other numbers. "
        f"{escape(report.description)}; {duration(seconds)} of training, without evaluation."
    )


def _scores(report: RunReport) -> list[str]:
    before, after = report.before.metrics, report.after.metrics
    whole = [name for name in (*after, *before) if not name.startswith("f1.")]
    labels = sorted(name for name in {*after, *before} if name.startswith("f1."))
    rows = [
        *[(f"**{name}**", *_change(before.get(name), after.get(name))) for name in dict.fromkeys(whole)],
        *[(escape(name.removeprefix("f1.")), *_change(before.get(name), after.get(name))) for name in labels],
    ]
    head = ("all, then F1 by label" if labels else "all", "before fine-tuning", "after", "change")
    full = [
        line
        for title, part in (("After", report.after), ("Before", report.before))
        for line in ("", f"### {title} fine-tuning ({part.mode})", "", *verbatim(part.text))
    ]
    return [*table([head, *rows]), *full]


def _change(before: float | None, after: float | None) -> tuple[str, str, str]:
    """A label that neither occurs nor is predicted has no score."""
    shown = ["-" if value is None else f"{value:.4f}" for value in (before, after)]
    change = "-" if before is None or after is None else f"{after - before:+.4f}"
    return shown[0], shown[1], change


def _epochs(rows: Sequence[Mapping[str, float]], score: str) -> list[str]:
    head = [title.format(score=score) for title, _, _ in _COLUMNS]
    return table([head, *[[f"{row[name]:{form}}" for _, name, form in _COLUMNS] for row in rows]])


def _settings(report: RunReport) -> list[str]:
    rows = {"model": report.model, "data": report.data, "seed": str(report.seed), **report.settings}
    return table([("setting", "value"), *[(escape(name), escape(value)) for name, value in rows.items()]])
