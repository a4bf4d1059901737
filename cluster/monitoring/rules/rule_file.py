"""The data classes of recording rules and alerts, and their form in a rule file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

RUNBOOKS = "docs/runbooks.md"

Severity = Literal["page", "ticket"]


@dataclass(frozen=True)
class Recording:
    """A recording rule: a series that Prometheus computes and stores."""

    name: str
    expr: str

    def plain(self) -> dict[str, Any]:
        """Its form in a rule file."""
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """An alert.

    Attributes:
        hold: How long the expression must hold before the alert fires.
        severity: `page` wakes somebody, `ticket` waits for working hours.
        dashboard: Uid of the dashboard to look at first.
        summary: One line, with `{{ $labels.x }}` and `{{ $value }}`.
        labels: Further labels, which distinguish alerts of one name.
    """

    name: str
    hold: str
    severity: Severity
    dashboard: str
    expr: str
    summary: str
    labels: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Its form in a rule file."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.hold,
            "labels": {"severity": self.severity, **self.labels},
            "annotations": {
                "summary": self.summary,
                "runbook_url": f"{RUNBOOKS}#{self.name.lower()}",
                "dashboard": self.dashboard,
            },
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in order."""

    name: str
    rules: Sequence[Recording | Alert]

    def plain(self) -> dict[str, Any]:
        """Its form in a rule file."""
        return {"name": self.name, "rules": [rule.plain() for rule in self.rules]}


def rules_file(groups: Sequence[Group]) -> str:
    """The rule file for Prometheus and promtool."""
    return yaml.safe_dump({"groups": [group.plain() for group in groups]}, sort_keys=False, width=10_000)
