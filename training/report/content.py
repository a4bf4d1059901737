"""The content of a report, as data."""

from __future__ import annotations

from collections.abc import Mapping

from agent.config.base import Config
from agent.tasks import Report
from training.report.findings import Findings


class RunReport(Config):
    """Everything on the page.

    Attributes:
        model, data, seed: What was trained, on what.
        settings: Other settings worth showing, by name.
        num_test: Examples of the test split.
    """

    model: str
    data: str
    seed: int
    settings: Mapping[str, str]
    description: str
    num_test: int
    best_epoch: int
    before: Report
    after: Report
    dev: Report
    epochs: tuple[Mapping[str, float], ...]
    findings: Findings
