"""The data classes of dashboards, rows, panels and queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Need = Literal["", "gpu", "operator", "feedback", "explanations", "policy", "drift", "entities", "writing", "cascade"]
Unit = Literal["s", "percentunit", "percent", "bytes", "decmbytes", "short", "none"]


@dataclass(frozen=True)
class Query:
    """A PromQL query of a panel.

    Attributes:
        legend: Name of its series, with `{{label}}` for their labels.
        needs: What must exist for it to return series: GPUs, the KubeRay operator, a store of decisions
            (`feedback.store`), somebody who asks for explanations, a bundle with a policy, a cascade or a reference for drift.
    """

    expr: str
    legend: str
    needs: Need = ""


@dataclass(frozen=True)
class Panel:
    """A panel of lines over time.

    Attributes:
        unit: A unit of Grafana, or a suffix that begins with a space, such as ` texts/s`.
        stacked: Whether its series are stacked.
    """

    title: str
    description: str
    unit: Unit | str
    queries: tuple[Query, ...]
    stacked: bool = False


def panel(
    title: str, unit: Unit | str, description: str, *queries: tuple[str, str], stacked: bool = False, needs: Need = ""
) -> Panel:
    """A panel with queries given as (PromQL, legend)."""
    return Panel(title, description, unit, tuple(Query(expr, legend, needs) for expr, legend in queries), stacked)


@dataclass(frozen=True)
class Variable:
    """A variable of a dashboard: the user chooses among the values of a label of a series."""

    name: str
    series: str
    label: str
    title: str

    @property
    def query(self) -> str:
        """The query in Grafana's form."""
        return f"label_values({self.series}, {self.label})"


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """Rows of panels with variables."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = field(default=())

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, in order."""
        return tuple(panel for row in self.rows for panel in row.panels)
