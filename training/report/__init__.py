"""What a run leaves behind for people: a page, its data, a curve. Measures nothing, starts nothing."""

from training.report.report_writer import Results, write_report

__all__ = ["Results", "write_report"]
