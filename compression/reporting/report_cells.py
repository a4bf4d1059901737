"""Cells that several tables of a report have in common."""

from __future__ import annotations

from compression.reporting.compression_report import Measurement


def model_name(row: Measurement, original: Measurement) -> str:
    """The name of a model, and whether it was only measured."""
    return row.name + ("" if row.published or row is original else " (not published)")


def sizes(row: Measurement) -> tuple[str, str]:
    """Megabytes of the file and millions of weights."""
    return f"{row.size_bytes / 1e6:.1f}", f"{row.parameters / 1e6:.2f} M"


def scores(row: Measurement, original: Measurement) -> tuple[str, str]:
    """The score, and the part of the original's."""
    return f"{row.score:.4f}", f"{row.score / original.score:.2%}" if original.score else "-"


def number(value: float | None, form: str, unit: str = "") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else f"{value:{form}}{unit}"
