"""What a dashboard is made of. Knows neither Grafana nor the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Need = Literal["", "gpu", "operator"]
Unit = Literal["s", "percentunit", "percent", "bytes", "decmbytes", "short", "none"]


@dataclass(frozen=True)
class Query:
    """PromQL and how its series are called.

    Attributes:
        legend: With `{{label}}` for labels of the series.
        needs: What must be there for it to answer: GPUs, or the KubeRay operator.
    """

    expr: str
    legend: str
    needs: Need = ""


@dataclass(frozen=True)
class Panel:
    """Lines over time.

    Attributes:
        unit: A unit of Grafana's, or any text that stands behind the number, as ` texts/s`.
        stacked: Its series add up to something.
    """

    title: str
    description: str
    unit: Unit | str
    queries: tuple[Query, ...]
    stacked: bool = False


@dataclass(frozen=True)
class Variable:
    """A choice above a dashboard: the values of a label of a series."""

    name: str
    series: str
    label: str
    title: str

    @property
    def query(self) -> str:
        """As Grafana asks for it."""
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
        """All panels in their order."""
        return tuple(panel for row in self.rows for panel in row.panels)
