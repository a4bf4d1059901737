"""What compression did, as data (JSON), as a page (Markdown) and as a short table. Measures nothing itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from agent.config import Config
from agent.tasks import Report

NAME = "report"
_CONTENTION = 0.2  # cores shared with other processes from which on speeds are doubted


class Latency(Config):
    """Milliseconds of one sentence: the median and the 10th and 90th percentile."""

    median_ms: float
    p10_ms: float
    p90_ms: float


class Agreement(Config):
    """Shares of what the original answers alike: whole texts, and single words (for tags; else the same as texts)."""

    texts: float
    words: float


class Measured(Config):
    """One model file, measured.

    Attributes:
        name: What it is.
        file: Its name in the bundle; the original's in its own.
        precision: Of its weights.
        size_bytes: Of the file.
        parameters: Weights that it computes with.
        flops_per_token: Of a sentence of 64 tokens (or as many as the model takes), products and attention.
        quality: Scores on the test split, or on the dev split after a step.
        calibration_error: Expected calibration error in 15 bins of equal width (Guo et al., arXiv 1706.04599), over words
            or texts: confidence is the probability of the answer.
        agreement: With the original.
        latency: By number of tokens, one sentence at a time. Weights with zeros are as fast as the original: not timed.
        sentences_per_s, tokens_per_s: Throughput in batches; tokens without padding.
        published: Whether it is in the new bundle.
    """

    name: str
    file: str
    precision: str
    size_bytes: int
    parameters: int
    flops_per_token: int | None = None
    quality: Report
    calibration_error: float | None = None
    agreement: Agreement | None = None
    latency: Mapping[int, Latency] = Field(default_factory=dict)
    sentences_per_s: float | None = None
    tokens_per_s: float | None = None
    published: bool

    @property
    def f1(self) -> float:
        """The task's primary metric."""
        return self.quality.value


class StepRow(Config):
    """What was measured after a step.

    Attributes:
        kind: Of the step; `original` before the first.
        seconds: That the step took, measuring not included.
        num_examples: Of the dev split, over which quality was measured.
        measured: None where nothing was measured.
        speed: Sentences a second over the original's, both measured in turns just then.
    """

    kind: str
    seconds: float
    num_examples: int = 0
    measured: Measured | None = None
    speed: float | None = None


class Verdict(Config):
    """The gate's comparison of the worst published model file with the original."""

    model: str
    f1: float
    original: float
    kept: float
    needed: float

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return self.f1 >= self.needed


class CompressionReport(Config):
    """Everything that is known of a run."""

    bundle: str
    parent_digest: str
    data_digest: str
    config: Mapping[str, Any]
    machine: str
    threads: int
    batch_size: int
    contention: float | None
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    step_seconds: Mapping[str, float]
    rows: tuple[Measured, ...]
    verdict: Verdict

    def save(self, directory: Path, stem: str = NAME) -> None:
        """Writes STEM.json and STEM.md."""
        tree = self.model_dump(mode="json") | {"passed": self.verdict.passed}
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{stem}.json").write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (directory / f"{stem}.md").write_text(self.markdown(), encoding="utf-8")

    def table(self) -> str:
        """The short table for a terminal."""
        return "\n".join([_plain(self._rows()), *self._doubts(), self._sentence()])

    def markdown(self) -> str:
        """The page."""
        lines = ["# Compression report", "", self._sentence(), ""]
        lines += _markdown_table(self._rows())
        lines += [f"\n**{doubt}**" for doubt in self._doubts()]
        lines += ["", f"Sizes are of the model file alone. Speed: {self.threads} thread(s) for PyTorch and ONNX Runtime",
                  f"alike, measured in turns in one process. Throughput: batches of {self.batch_size} test sentences of like",
                  f"length, the same batches for all, the fastest pass of each. One sentence: of {min(self.rows[0].latency)} tokens, the median. {self.machine}.", ""]  # fmt: skip
        lines += ["## F1 by label (test split)", "", *_markdown_table(_labels(self.rows)), ""]
        lines += ["## Latency of one sentence, ms", "", *_markdown_table(_latencies(self.rows)), ""]
        lines += ["## What was done", "", *[f"- {note}" for note in self.notes], ""]
        lines += [f"- seconds: {', '.join(f'{name} {value:.0f}' for name, value in self.step_seconds.items())}"]
        lines += [f"- versions: {', '.join(f'{name} {value}' for name, value in self.versions.items())}"]
        return "\n".join(lines) + "\n"

    def _doubts(self) -> list[str]:
        if self.contention is None or self.contention <= _CONTENTION:
            return []
        return [
            f"Other processes took {self.contention:.1f} of our {self.threads} core(s) while the clocks ran: speeds and ratios are "
            "not to be trusted (sizes and F1 are). Run again on a quiet machine."
        ]

    def _rows(self) -> list[tuple[str, ...]]:
        return [_HEAD, *[_cells(row, self.rows[0]) for row in self.rows]]

    def _sentence(self) -> str:
        verdict = self.verdict
        state = "passed" if verdict.passed else "NOT passed, nothing published"
        return (
            f"Gate {state}: {verdict.model} keeps {verdict.kept:.2%} of F1 "
            f"({verdict.f1:.4f} of {verdict.original:.4f}; needed {verdict.needed:.4f})."
        )


_HEAD = ("model", "MB", "parameters", "F1", "kept", "1 sentence, ms", "sentences/s", "speed")


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


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _labels(rows: Sequence[Measured]) -> list[tuple[str, ...]]:
    names = [name for name in rows[0].quality.metrics if name.startswith("f1.")]
    head = ("model", "all", *[name.removeprefix("f1.") for name in names])
    return [head, *[(row.name, f"{row.f1:.4f}", *[f"{row.quality.metrics[n]:.4f}" for n in names]) for row in rows]]


def _latencies(rows: Sequence[Measured]) -> list[tuple[str, ...]]:
    lengths = sorted(rows[0].latency)
    head = ("model", *[f"{tokens} tokens" for tokens in lengths])
    return [head, *[(row.name, *[_spread(row.latency[tokens]) for tokens in lengths]) for row in rows if row.latency]]


def _spread(latency: Latency) -> str:
    return f"{latency.median_ms:.2f} ({latency.p10_ms:.2f} to {latency.p90_ms:.2f})"


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *body]


def _plain(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )  # fmt: skip
