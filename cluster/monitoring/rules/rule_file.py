"""What rules are made of, and how Prometheus reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

RUNBOOKS = "docs/runbooks.md"

Severity = Literal["page", "ticket"]


@dataclass(frozen=True)
class Recording:
    """A series that Prometheus computes and keeps."""

    name: str
    expr: str

    def plain(self) -> dict[str, Any]:
        """As in a rule file."""
        return {"record": self.name, "expr": self.expr}


@dataclass(frozen=True)
class Alert:
    """What somebody must know.

    Attributes:
        hold: How long the expression holds before the alert fires.
        severity: page wakes somebody, ticket waits for the morning.
        summary: One line, with `{{ $labels.x }}` and `{{ $value }}`.
        dashboard: Where to look first: a dashboard's uid.
        labels: More labels, which tell alerts of one name apart.
    """

    name: str
    expr: str
    hold: str
    severity: Severity
    summary: str
    dashboard: str
    labels: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As in a rule file."""
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
        """As in a rule file."""
        return {"name": self.name, "rules": [rule.plain() for rule in self.rules]}


def rules_file(groups: Sequence[Group]) -> str:
    """Rules as Prometheus itself and promtool read them."""
    return yaml.safe_dump({"groups": [group.plain() for group in groups]}, sort_keys=False, width=10_000)
