"""Tables of a report on agents that write: what they score, and how fast they write."""

from __future__ import annotations

from collections.abc import Sequence

from agent.markdown import table as markdown_table
from compression.reporting.compression_report import CompressionReport, Measurement, WritingSpeed
from compression.reporting.report_cells import model_name, number, scores, sizes


def writing_rows(rows: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """One row for each model, the original first: size, score, and speeds, each with how many times the original's it is."""
    original = rows[0]
    heads = [_texts(size) for size in original.writing]
    head = ("model", "MB", "parameters", original.quality.score_name, "kept", *(f"tokens/s, {head}" for head in heads))
    return [head, *(_cells(row, original) for row in rows)]


def writing_results(report: CompressionReport) -> list[str]:
    """What stands below the table of models in Markdown: how speeds were measured, their spread, and all scores."""
    rows = report.model_rows
    lines = ["", f"Sizes are of the weights alone. Speed: {report.threads} thread(s) for PyTorch (`generate` of transformers) and CTranslate2",
             "alike, the same texts in the same batches, in turns in one process; sub-words that are written, of the median turn, without the token",
             f"that ends a text. {report.machine}.", ""]  # fmt: skip
    lines += ["## Speed of writing (median of the turns; slowest to fastest)", ""]
    lines += [*markdown_table(_speeds(rows)), ""]
    names = list(rows[0].quality.metrics)
    scored = [(row.name, *(f"{row.quality.metrics[name]:.4f}" for name in names), _same(row)) for row in rows]
    lines += ["## Scores (test split)", "", *markdown_table([("model", *names, "same texts"), *scored]), ""]
    return [*lines, f"Scored: {rows[0].quality.mode}.", ""]


def _cells(row: Measurement, original: Measurement) -> tuple[str, ...]:
    rates = [
        f"{speed.tokens_per_s:,.0f} ({speed.tokens_per_s / original.writing[size].tokens_per_s:.2f}x)"
        for size, speed in row.writing.items()
    ]
    return (model_name(row, original), *sizes(row), *scores(row, original), *rates)


def _speeds(rows: Sequence[Measurement]) -> list[tuple[str, ...]]:
    head = (
        "model",
        "in a batch",
        "texts",
        "turns",
        "texts/s",
        "over the original's",
        "tokens/s",
        "over the original's",
    )
    return [head, *(_speed(row, size, rows[0].writing[size]) for size in rows[0].writing for row in rows)]


def _speed(row: Measurement, size: int, original: WritingSpeed) -> tuple[str, ...]:
    speed = row.writing[size]
    texts, tokens = speed.texts_per_s / original.texts_per_s, speed.tokens_per_s / original.tokens_per_s
    spread = f"{speed.tokens_per_s:,.1f} ({speed.slowest_tokens_per_s:,.1f} to {speed.fastest_tokens_per_s:,.1f})"
    rates = (f"{speed.texts_per_s:,.2f}", f"{texts:.2f}x", spread, f"{tokens:.2f}x")
    return (row.name, _texts(size), str(speed.num_texts), str(speed.num_turns), *rates)


def _texts(size: int) -> str:
    return "1 text" if size == 1 else f"{size} texts"


def _same(row: Measurement) -> str:
    return number(row.agreement.texts if row.agreement else None, ".1%")
