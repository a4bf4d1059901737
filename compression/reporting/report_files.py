"""The report of a compression in files (data, a page in Markdown, a picture), and as a short table for a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agent.markdown import table as markdown_table
from compression.reporting.compression_report import CompressionReport, Latency, Measured, StepRow
from compression.reporting.frontier_plot import draw_frontier, points_of

NAME = "report"
KINDS = ("json", "md", "svg")

_CONTENTION = 0.2  # cores shared with other processes from which on speeds are doubted
_HEAD = ("model", "MB", "parameters", "F1", "kept", "1 sentence, ms", "sentences/s", "speed")
_TRAIL_HEAD = (
    "after",
    "MB",
    "parameters",
    "MFLOP/token",
    "F1",
    "kept",
    "same texts",
    "same words",
    "calibration error",
)

_LIKENESS_HEAD = ("model", "MFLOP/token", "same texts", "same words", "calibration error")


def save_report(report: CompressionReport, directory: Path, stem: str = NAME) -> None:
    """Writes STEM.json, STEM.md and, where anything but the original was timed, STEM.svg."""
    tree = report.model_dump(mode="json") | {"passed": report.verdict.passed}
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
    (directory / f"{stem}.json").write_text(text, encoding="utf-8")
    points = points_of(report)
    picture = f"{stem}.svg" if len(points) > 1 else ""
    if picture:
        draw_frontier(directory / picture, points)
    (directory / f"{stem}.md").write_text(markdown(report, picture), encoding="utf-8")


def table(report: CompressionReport) -> str:
    """The short table for a terminal."""
    return "\n".join([_plain(_rows(report)), *_doubts(report), _sentence(report)])


def markdown(report: CompressionReport, picture: str = "") -> str:
    """The page; `picture` is the file of the frontier beside it."""
    lines = ["# Compression report", "", _sentence(report), ""]
    lines += _results(report) if report.rows else []
    lines += [f"![F1 kept against speed]({picture})", ""] if picture else []
    lines += _steps(report)
    lines += ["## What was done", "", *[f"- {note}" for note in report.notes], ""]
    lines += [
        f"- seconds: {', '.join(f'{row.kind} {row.seconds:.0f}' for row in report.trail if row.kind != 'original')}"
    ]
    lines += [f"- versions: {', '.join(f'{name} {value}' for name, value in report.versions.items())}"]
    return "\n".join(lines) + "\n"


def trail_line(row: StepRow, original: StepRow) -> str:
    """What a step left, in a line."""
    assert row.measured
    assert original.measured
    told = f"{row.measured.size_bytes / 1e6:.1f} MB, F1 {row.measured.f1:.4f}"
    if row is not original and original.measured.f1:
        told += f" ({row.measured.f1 / original.measured.f1:.1%} kept)"
    return f"{told} over {row.num_examples} of the dev split" + (f", {row.speed:.2f}x" if row.speed else "")


def _results(report: CompressionReport) -> list[str]:
    rows = report.rows
    lines = markdown_table(_rows(report))
    lines += [f"\n**{doubt}**" for doubt in _doubts(report)]
    lines += ["", f"Sizes are of the model file alone. Speed: {report.threads} thread(s) for PyTorch and ONNX Runtime",
              f"alike, measured in turns in one process. Throughput: batches of {report.batch_size} test sentences of like",
              f"length, the same batches for all, the fastest pass of each. One sentence: of {min(rows[0].latency)} tokens, the median. {report.machine}.", ""]  # fmt: skip
    lines += ["## F1 by label (test split)", "", *markdown_table(_labels([(row.name, row) for row in rows])), ""]
    lines += ["## Latency of one sentence, ms", "", *markdown_table(_latencies([(row.name, row) for row in rows])), ""]
    alike = [_LIKENESS_HEAD, *((row.name, _work(row), *_likeness(row)) for row in rows)]
    lines += ["## Against the original (test split)", "", *markdown_table(alike), ""]
    return lines


def _steps(report: CompressionReport) -> list[str]:
    rows = [row for row in report.trail if row.measured]
    if not rows:
        return []
    original = rows[0]
    named = [(row.kind, row.measured) for row in rows if row.measured]
    lines = [
        "## After each step",
        "",
        *markdown_table([_TRAIL_HEAD, *(_trail_cells(row, original) for row in rows)]),
        "",
    ]
    lines += [f"Of {original.num_examples} examples of the dev split. Expected calibration error, 15 bins. Speed below is over the original's,",
              "both measured in turns after the step; of a network the weights without their zeros.", ""]  # fmt: skip
    lines += [*markdown_table(_speeds(rows)), ""]
    return [*lines, *markdown_table(_labels(named)), ""]


def _doubts(report: CompressionReport) -> list[str]:
    if report.contention is None or report.contention <= _CONTENTION:
        return []
    return [
        f"Other processes took {report.contention:.1f} of our {report.threads} core(s) while the clocks ran: speeds and ratios are "
        "not to be trusted (sizes and F1 are). Run again on a quiet machine."
    ]


def _rows(report: CompressionReport) -> list[tuple[str, ...]]:
    return [_HEAD, *[_cells(row, report.rows[0]) for row in report.rows]]


def _sentence(report: CompressionReport) -> str:
    verdict = report.verdict
    state = "passed" if verdict.passed else "NOT passed, nothing published"
    split = "" if verdict.split == "test" else f", {verdict.split}"
    return (
        f"Gate {state}: {verdict.model} keeps {verdict.kept:.2%} of F1 "
        f"({verdict.f1:.4f} of {verdict.original:.4f}; needed {verdict.needed:.4f}{split})."
    )


def _cells(row: Measured, original: Measured) -> tuple[str, ...]:
    shortest = row.latency[min(row.latency)].median_ms if row.latency else None
    speed = row.sentences_per_s and original.sentences_per_s and row.sentences_per_s / original.sentences_per_s
    return (
        row.name + ("" if row.published or row is original else " (not published)"),
        f"{row.size_bytes / 1e6:.1f}",
        f"{row.parameters / 1e6:.2f} M",
        f"{row.f1:.4f}",
        f"{row.f1 / original.f1:.2%}" if original.f1 else "-",
        _number(shortest, ".2f"),
        _number(row.sentences_per_s, ".0f"),
        _number(speed, ".2f", "x"),
    )


def _trail_cells(row: StepRow, original: StepRow) -> tuple[str, ...]:
    found, first = row.measured, original.measured
    assert found
    assert first
    return (
        row.kind,
        f"{found.size_bytes / 1e6:.1f}",
        f"{found.parameters / 1e6:.2f} M",
        _work(found),
        f"{found.f1:.4f}",
        f"{found.f1 / first.f1:.2%}" if first.f1 else "-",
        *_likeness(found),
    )


def _likeness(row: Measured) -> tuple[str, str, str]:
    """Texts and words that the original answers alike, and the calibration error."""
    alike = row.agreement
    shares = (_number(alike.texts, ".1%"), _number(alike.words, ".2%")) if alike else ("-", "-")
    return (*shares, _number(row.calibration_error, ".4f"))


def _work(row: Measured) -> str:
    return "-" if row.flops_per_token is None else f"{row.flops_per_token / 1e6:.1f}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _labels(rows: Sequence[tuple[str, Measured]]) -> list[tuple[str, ...]]:
    names = [name for name in rows[0][1].quality.metrics if name.startswith("f1.")]
    head = ("model", "all", *[name.removeprefix("f1.") for name in names])
    return [
        head,
        *[(told, f"{row.f1:.4f}", *[_number(row.quality.metrics.get(n), ".4f") for n in names]) for told, row in rows],
    ]


def _latencies(rows: Sequence[tuple[str, Measured]]) -> list[tuple[str, ...]]:
    lengths = sorted(rows[0][1].latency)
    head = ("model", *[f"{tokens} tokens" for tokens in lengths])
    return [head, *[(told, *[_spread(row.latency[tokens]) for tokens in lengths]) for told, row in rows if row.latency]]


def _speeds(rows: Sequence[StepRow]) -> list[tuple[str, ...]]:
    head, *body = _latencies([(row.kind, row.measured) for row in rows if row.measured])
    flows = [
        (_number(row.measured.sentences_per_s, ".0f"), _number(row.speed, ".2f", "x")) for row in rows if row.measured
    ]
    cells = [(*told, *flow) for told, flow in zip(body, flows, strict=True)]
    return [("one sentence, ms", *head[1:], "sentences/s", "speed"), *cells]


def _spread(latency: Latency) -> str:
    return f"{latency.median_ms:.2f} ({latency.p10_ms:.2f} to {latency.p90_ms:.2f})"


def _plain(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )  # fmt: skip
