"""What all panels have in common.

Owns the form of panels, variables and links. Refuses a panel without a title, a description and a unit.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as commons
from grafana_foundation_sdk.models import dashboard as dashboards
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.colours import CALM
from deploy.grafana.queries import Query

Panel = timeseries.Panel | stat.Panel | bargauge.Panel | table.Panel

TAG: Final = "dial-gateway"
HALF, THIRD, QUARTER, SIXTH = 12, 8, 6, 4
_SOURCE: Final = dashboards.DataSourceRef(type_val="prometheus", uid="${datasource}")
_RUNBOOK: Final = "https://runbook.example/dial-gateway.md"
# Without them the axis of what is 0 all the time would go up to 100.
_SOFT_MAX: Final = {"short": 1.0, "percentunit": 0.01, "reqps": 0.1, "ops": 0.1}
_HEIGHT: Final = 8
_SMALL: Final = 4
# Any value: `.+`, but Grafana puts this as it is into the address of a link, where a `+` is a space. Loki refuses `.*`,
# which is any job, and none too.
_ALL: Final = "..*"
# What is asked of a line of the log if its panel asks for what the variable chooses. Where the metrics have a service
# that is `-`, the log has none.
_CHOSEN: Final = {
    "$service": 'label_format service=`{{or .service "-"}}` | service=~"${service:pipe}"',
    "$account": 'account=~"${account:pipe}"',
}


def lines(  # noqa: PLR0913 - what a panel can be
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = HALF,
    stacked: bool = False,
    bars: bool = False,
    exemplars: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    colours: Mapping[str, str] | None = None,
    runbook: str = "",
    logs: str = "",
    logs_of: Mapping[str, str] | None = None,
    least: float | None = 0.0,
    filled: bool = True,
    hue: str = "",
) -> timeseries.Panel:
    """Series over time.

    `marks` are lines across, `colours` those of series by name, `hue` that of all others, `logs` a filter of the log,
    and `logs_of` that of series whose name is no value of a field.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(_HEIGHT)
        .datasource(_SOURCE)
        .line_width(1)
        .fill_opacity(70 if bars else 25 if stacked else 8 if filled else 0)
        .show_points(commons.VisibilityMode.NEVER)
        .line_interpolation(commons.LineInterpolation.LINEAR)
        .tooltip(common.VizTooltipOptions().mode(commons.TooltipDisplayMode.MULTI).sort(commons.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)  # noqa: FBT003 - the builder's form
            .display_mode(commons.LegendDisplayMode.LIST)
            .placement(commons.LegendPlacement.BOTTOM)
            .calcs([])
        )
    )
    if least is not None:
        panel = panel.min(least)
    if bars:
        panel = panel.draw_style(commons.GraphDrawStyle.BARS)
    if unit in _SOFT_MAX:
        panel = panel.axis_soft_max(_SOFT_MAX[unit])
    if hue:
        shades = dashboard.FieldColor().mode(dashboards.FieldColorModeId.SHADES).fixed_color(hue)
        panel = panel.color_scheme(shades)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(commons.StackingMode.NORMAL).group("A"))
    if marks:
        steps = [dashboards.Threshold(value=None, color="transparent")]
        steps += [dashboards.Threshold(value=value, color=colour) for value, colour in marks]
        panel = panel.thresholds(_steps(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(commons.GraphThresholdsStyleMode.DASHED)
        )
    asked = " ".join(expression for expression, _ in queries)
    own = {name: _logs(filters, asked) for name, filters in (logs_of or {}).items()}
    for name, value in _overrides(colours or {}, own):
        panel = panel.override_by_name(name, [value])
    if logs:
        panel = panel.data_links([_link("Lines of the log", _logs(logs, asked))])
    for reference, query in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(_query(reference, query, exemplars=exemplars))
    return panel.links([_entry(runbook)] if runbook else [])


def number(  # noqa: PLR0913 - what a panel can be
    title: str,
    description: str,
    unit: str,
    expression: str,
    *,
    width: int = SIXTH,
    steps: Sequence[tuple[float | None, str]] = ((None, CALM),),
    decimals: int | None = None,
    graph: bool = False,
    each: str = "",
    runbook: str = "",
) -> stat.Panel:
    """One number, coloured by the step that it has reached; with `graph` its course behind it.

    With `each` there is one for each series, which is called so.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(_HEIGHT if each else _SMALL)
        .datasource(_SOURCE)
        .graph_mode(commons.BigValueGraphMode.AREA if graph else commons.BigValueGraphMode.NONE)
        .color_mode(commons.BigValueColorMode.VALUE)
        .text_mode(commons.BigValueTextMode.VALUE_AND_NAME if each else commons.BigValueTextMode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_steps([dashboards.Threshold(value=value, color=colour) for value, colour in steps]))
        .links([_entry(runbook)] if runbook else [])
        .with_target(_query("A", (expression, each), instant=not graph))
    )
    return panel if decimals is None else panel.decimals(decimals)


def bars(  # noqa: PLR0913 - what a panel can be
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = HALF,
    steps: Sequence[tuple[float | None, str]],
    greatest: float | None = None,
    runbook: str = "",
) -> bargauge.Panel:
    """One bar for each series, as it is now."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(_HEIGHT)
        .datasource(_SOURCE)
        .min(0)
        .orientation(commons.VizOrientation.HORIZONTAL)
        .display_mode(commons.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_steps([dashboards.Threshold(value=value, color=colour) for value, colour in steps]))
        .links([_entry(runbook)] if runbook else [])
        .with_target(_query("A", query, instant=True))
    )
    return panel if greatest is None else panel.max(greatest)


def rows(title: str, description: str, query: Query, hidden: Sequence[str], *, width: int = HALF) -> table.Panel:
    """A table with a row for each series; `hidden` are columns that say nothing."""
    return (
        table.Panel()
        .title(title)
        .description(description)
        .unit("none")
        .span(width)
        .height(_HEIGHT)
        .datasource(_SOURCE)
        .with_transformation(
            dashboards.DataTransformerConfig(id_val="organize", options={"excludeByName": dict.fromkeys(hidden, True)})
        )
        .with_target(_query("A", query, instant=True).format(PromQueryFormat.TABLE))
    )


def page(uid: str, title: str, description: str, parts: Sequence[tuple[str, Sequence[Panel]]]) -> dashboards.Dashboard:
    """A dashboard of rows of panels, with the variables that all of them have."""
    made = (
        dashboard
        .Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(dashboards.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Dial gateway").type(dashboards.DashboardLinkType.DASHBOARDS).tags([TAG])
            .as_dropdown(True).include_vars(True).keep_time(True)  # noqa: FBT003 - the builder's form
        )
        .link(dashboard.DashboardLink("Runbook").type(dashboards.DashboardLinkType.LINK).url("${runbook}"))
    )  # fmt: skip
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    made = made.with_variable(_values("job", "Job", "label_values(gateway_build_info, job)"))
    made = made.with_variable(
        _values("instance", "Instance", 'label_values(gateway_build_info{job=~"$job"}, instance)')
    )
    made = made.with_variable(
        _values("service", "Service", 'label_values(gateway_requests_total{job=~"$job"}, service)')
    )
    made = made.with_variable(
        _values("account", "Account", 'label_values(gateway_upstream_requests_total{job=~"$job"}, account)')
    )
    made = made.with_variable(dashboard.DatasourceVariable("logs").label("Logs").type("loki"))
    made = made.with_variable(dashboard.TextBoxVariable("runbook").label("Runbook").default_value(_RUNBOOK))
    numbers = itertools.count(1)
    for name, panels in parts:
        made = made.with_row(dashboard.Row(name).id(next(numbers)))
        for panel in panels:
            made = made.with_panel(panel.id(next(numbers)))
    return made.build()


# --- inside


def _values(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(query)
        .refresh(dashboards.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboards.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)  # noqa: FBT003 - the builder's form
        .multi(True)  # noqa: FBT003
        .all_value(_ALL)
    )


def _query(reference: str, query: Query, *, instant: bool = False, exemplars: bool = False) -> prometheus.Dataquery:
    expression, name = query
    made = prometheus.Dataquery().ref_id(reference).expr(expression).legend_format(name).datasource(_SOURCE)
    made = made.instant() if instant else made.range()
    return made.exemplar(True) if exemplars else made  # noqa: FBT003 - the builder's form


def _steps(steps: list[dashboards.Threshold]) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig().mode(dashboards.ThresholdsMode.ABSOLUTE).steps(steps)


def _overrides(
    colours: Mapping[str, str], links: Mapping[str, str]
) -> Iterator[tuple[str, dashboards.DynamicConfigValue]]:
    for name, colour in colours.items():
        yield name, dashboards.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
    for name, url in links.items():
        link = {"title": "Lines of the log", "url": url, "targetBlank": True}
        yield name, dashboards.DynamicConfigValue(id_val="links", value=[link])


def _entry(alert: str) -> dashboard.DashboardLink:
    return _link(f"Runbook: {alert}", f"${{runbook}}#{alert.lower()}")


def _logs(filters: str, asked: str) -> str:
    """The lines of the log of what a panel asks for, in Explore; `filters` is what else is asked of their fields."""
    # Without a form of their own, several values would be `{a,b}` in an address.
    stages = ['{job=~"${job:pipe}"}', "json", *(one for name, one in _CHOSEN.items() if name in asked), filters]
    left = {
        "datasource": "${logs}",
        "queries": [{"refId": "A", "expr": " | ".join(stages)}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    # Grafana's own variables must stay what they are; all else is quoted.
    url = quote(json.dumps(left, separators=(",", ":")), safe="${}:,_.")
    return f"/explore?left={url}"


def _link(title: str, url: str) -> dashboard.DashboardLink:
    link = dashboard.DashboardLink(title).type(dashboards.DashboardLinkType.LINK).url(url)
    return link.target_blank(True)  # noqa: FBT003 - the builder's form
