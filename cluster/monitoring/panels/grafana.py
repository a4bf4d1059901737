"""Converts dashboards to Grafana's JSON with Grafana's typed builders."""

from __future__ import annotations

import itertools
import json
import string
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableOption, VariableRefresh

from cluster.monitoring.panels.dashboard import Dashboard, Panel, Query, Variable

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT, _SPAN = 8, 8  # three beside each other, of 24 columns


def grafana(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard's JSON as plain values."""
    builder = (
        builders.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.description)
        .tags(["bert-agent"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in dashboard.variables:
        builder = builder.with_variable(_variable(variable))
    number = itertools.count(1)
    for row in dashboard.rows:
        builder = builder.with_row(builders.Row(row.title).id(next(number)))
        for panel in row.panels:
            builder = builder.with_panel(_panel(panel, next(number)))
    plain: dict[str, Any] = json.loads(JSONEncoder(sort_keys=True).encode(builder.build()))
    return plain


def _variable(variable: Variable) -> builders.QueryVariable:
    return (
        builders.QueryVariable(variable.name)
        .label(variable.title)
        .query(variable.query)
        .datasource(_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(text="All", value="$__all", selected=True))
    )


def _panel(panel: Panel, number: int) -> TimeSeries:
    legend = (
        common_builders.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    stacking = common_builders.StackingConfig().mode(StackingMode.NORMAL if panel.stacked else StackingMode.NONE)
    builder = (
        TimeSeries()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit if not panel.unit.startswith(" ") else f"suffix:{panel.unit}")
        .datasource(_SOURCE)
        .height(_HEIGHT)
        .span(_SPAN)
        .legend(legend)
        .tooltip(common_builders.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .stacking(stacking)
        .fill_opacity(30 if panel.stacked else 0)
    )
    for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False):
        builder = builder.with_target(_query(query, letter))
    return builder


def _query(query: Query, ref_id: str) -> Dataquery:
    return Dataquery().expr(query.expr).legend_format(query.legend).ref_id(ref_id).range()
