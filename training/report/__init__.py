"""The report of a run: a Markdown page, its data as JSON, the learning curve."""

from training.report.report_writer import write_report

__all__ = ["write_report"]
