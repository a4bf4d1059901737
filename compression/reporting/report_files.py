"""Writes the report of a compression as JSON, Markdown and SVG, and as a short table for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agent.markdown import escape
from agent.markdown import table as markdown_table
from compression.reporting.compression_report import CompressionReport, Latency, Measurement, StepRow
from compression.reporting.frontier_plot import draw_frontier, points_of
from compression.reporting.report_cells import model_name, number, scores, sizes
from compression.reporting.writing_tables import writing_results, writing_rows

NAME = "report"
KINDS = ("json", "md", "svg")

_CONTENTION = 0.2  # cores shared with other processes, above which the report warns
_AGREEMENT_HEAD = ("model", "MFLOP/token", "same texts", "same words", "calibration error")


def save_report(report: CompressionReport, directory: Path, stem: str = NAME) -> None:
    """Writes STEM.json, STEM.md and, where more than the original was timed, STEM.svg."""
    tree = report.model_dump(mode="json") | {"passed": report.verdict.passed}
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
    (directory / f"{stem}.json").write_text(text, encoding="utf-8")
    points = points_of(report)
    picture = f"{stem}.svg" if len(points) > 1 else ""
    if picture:
        draw_frontier(directory / picture, points)
    (directory / f"{stem}.md").write_text(markdown(report, picture), encoding="utf-8")


def terminal_table(report: CompressionReport) -> str:
    """A short table of all model files, with the gate's verdict."""
    table = [_plain(_rows(report))] if report.model_rows else []
    return "\n".join([*table, *_contention_warning(report), _verdict_line(report)])


def markdown(report: CompressionReport, picture: str = "") -> str:
    """The report as Markdown; `picture` is the SVG file beside it."""
    lines = ["# Compression report", "", _verdict_line(report), ""]
    lines += _results(report) if report.model_rows else []
    lines += [f"![Score kept against speed]({picture})", ""] if picture else []
    lines += _steps(report)
    lines += ["## What was done", "", *[f"- {note}" for note in report.notes], ""]
    lines += [
        f"- seconds: {', '.join(f'{row.kind} {row.seconds:.0f}' for row in report.step_rows if row.kind != 'original')}"
    ]
    lines += [f"- versions: {', '.join(f'{name} {value}' for name, value in report.versions.items())}"]
    return "\n".join(lines) + "\n"


def step_line(row: StepRow, original: StepRow) -> str:
    """One line on the measurements after a step."""
    assert row.measurement
    assert original.measurement
    line = (
        f"{row.measurement.size_bytes / 1e6:.1f} MB, {row.measurement.quality.score_name} {row.measurement.score:.4f}"
    )
    if row is not original and original.measurement.score:
        line += f" ({row.measurement.score / original.measurement.score:.1%} kept)"
    return f"{line} over {row.num_examples} of the dev split" + (f", {row.speed:.2f}x" if row.speed else "")


def _results(report: CompressionReport) -> list[str]:
    rows = report.model_rows
    lines = markdown_table(_rows(report))
    lines += [f"\n**{warning}**" for warning in _contention_warning(report)]
    if rows[0].writing:
        return [*lines, *writing_results(report)]
    lines += ["", f"Sizes are of the model file alone. Speed: {report.threads} thread(s) for PyTorch and ONNX Runtime",
              f"alike, measured in turns in one process. Throughput: batches of {report.batch_size} test sentences of like",
              f"length, the same batches for all, the fastest pass of each. One sentence: of {min(rows[0].latency)} tokens, the median. {report.machine}.", ""]  # fmt: skip
    by_label = _labels([(row.name, row) for row in rows])
    if len(by_label[0]) > 2:  # some tasks have no scores of labels
        lines += ["## F1 by label (test split)", "", *markdown_table(by_label), ""]
    lines += ["## Latency of one sentence, ms", "", *markdown_table(_latencies([(row.name, row) for row in rows])), ""]
    alike = [_AGREEMENT_HEAD, *((row.name, _mflops(row), *_agreement(row)) for row in rows)]
    lines += ["## Against the original (test split)", "", *markdown_table(alike), ""]
    return lines


def _steps(report: CompressionReport) -> list[str]:
    rows = [row for row in report.step_rows if row.measurement]
    if not rows:
        return []
    original = rows[0]
    name = rows[0].measurement.quality.score_name if rows[0].measurement else ""
    head = ("after", "MB", "parameters", "MFLOP/token", name, "kept", "same texts", "same words", "calibration error")
    named = [(row.kind, row.measurement) for row in rows if row.measurement]
    lines = ["## After each step", "", *markdown_table([head, *(_step_cells(row, original) for row in rows)]), ""]
    lines += [f"Of {original.num_examples} examples of the dev split. Expected calibration error, 15 bins. Speed below is over the original's,",
              "both measured in turns after the step; of a network the weights without their zeros.", ""]  # fmt: skip
    lines += [*markdown_table(_speeds(rows)), ""]
    return [*lines, *markdown_table(_labels(named)), ""]


def _contention_warning(report: CompressionReport) -> list[str]:
    if report.contention is None or report.contention <= _CONTENTION:
        return []
    return [
        f"Other processes took {report.contention:.1f} of our {report.threads} core(s) while the clocks ran: speeds and ratios are "
        "not to be trusted (sizes and scores are). Run again on a quiet machine."
    ]


def _rows(report: CompressionReport) -> list[tuple[str, ...]]:
    original = report.model_rows[0]
    if original.writing:
        return writing_rows(report.model_rows)
    name = original.quality.score_name
    head = ("model", "MB", "parameters", name, "kept", "1 sentence, ms", "sentences/s", "speed")
    return [head, *[_model_cells(row, original) for row in report.model_rows]]


def _verdict_line(report: CompressionReport) -> str:
    verdict = report.verdict
    state = "passed" if verdict.passed else "NOT passed, nothing published"
    split = "" if verdict.split == "test" else f", {verdict.split}"
    return (
        f"Gate {state}: {verdict.model} keeps {verdict.kept:.2%} of {verdict.score_name} "
        f"({verdict.score:.4f} of {verdict.original:.4f}; needed {verdict.needed:.4f}{split})."
    )


def _model_cells(row: Measurement, original: Measurement) -> tuple[str, ...]:
    shortest = row.latency[min(row.latency)].median_ms if row.latency else None
    speed = row.sentences_per_s and original.sentences_per_s and row.sentences_per_s / original.sentences_per_s
    clocks = (number(shortest, ".2f"), number(row.sentences_per_s, ".0f"), number(speed, ".2f", "x"))
    return (model_name(row, original), *sizes(row), *scores(row, original), *clocks)


def _step_cells(row: StepRow, original: StepRow) -> tuple[str, ...]:
    found, first = row.measurement, original.measurement
    assert found
    assert first
    return (row.kind, *sizes(found), _mflops(found), *scores(found, first), *_agreement(found))


def _agreement(row: Measurement) -> tuple[str, str, str]:
    """Shares of equal answers and the calibration error."""
    alike = row.agreement
    shares = (number(alike.texts, ".1%"), number(alike.words, ".2%")) if alike else ("-", "-")
    return (*shares, number(row.calibration_error, ".4f"))


def _mflops(row: Measurement) -> str:
    return "-" if row.flops_per_token is None else f"{row.flops_per_token / 1e6:.1f}"


def _labels(rows: Sequence[tuple[str, Measurement]]) -> list[tuple[str, ...]]:
    labels = [name for name in rows[0][1].quality.metrics if name.startswith("f1.")]
    lines = [
        (name, f"{row.score:.4f}", *(number(row.quality.metrics.get(n), ".4f") for n in labels)) for name, row in rows
    ]
    return [("model", "all", *(escape(label.removeprefix("f1.")) for label in labels)), *lines]


def _latencies(rows: Sequence[tuple[str, Measurement]]) -> list[tuple[str, ...]]:
    lengths = sorted(rows[0][1].latency)
    lines = [(name, *(_latency_cell(row.latency[n]) for n in lengths)) for name, row in rows if row.latency]
    return [("model", *(f"{tokens} tokens" for tokens in lengths)), *lines]


def _speeds(rows: Sequence[StepRow]) -> list[tuple[str, ...]]:
    head, *body = _latencies([(row.kind, row.measurement) for row in rows if row.measurement])
    measured = [(row.measurement.sentences_per_s, row.speed) for row in rows if row.measurement]
    rates = [(number(per_s, ".0f"), number(speed, ".2f", "x")) for per_s, speed in measured]
    lines = [(*cells, *rate) for cells, rate in zip(body, rates, strict=True)]
    return [("one sentence, ms", *head[1:], "sentences/s", "speed"), *lines]


def _latency_cell(latency: Latency) -> str:
    return f"{latency.median_ms:.2f} ({latency.p10_ms:.2f} to {latency.p90_ms:.2f})"


def _plain(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )  # fmt: skip
