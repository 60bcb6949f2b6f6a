"""How a panel of our boards looks, whatever it shows: one large figure, or lines over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RECENT = "[$__rate_interval]"
"""Four scrapes, or a step of the picture where that is more: Grafana puts in which."""
JOB = '{job=~"$job"}'
PARTITION = '{job=~"$job", partition=~"$partition"}'

Panels = Sequence[Stat | TimeSeries]
Queries = Mapping[str, str]
"""Legend and expression of each line."""


def rates(counter: str, by: str = "") -> str:
    """How fast a counter of the chosen jobs rises, added up, or for each value of some labels."""
    return f"sum{f' by ({by})' if by else ''} (rate({counter}{JOB}{RECENT}))"


def rises(counter: str, by: str = "", window: str = RECENT) -> str:
    """By how much it has risen."""
    return f"sum{f' by ({by})' if by else ''} (increase({counter}{JOB}{window}))"


def quantile(share: float, histogram: str) -> str:
    """The comparison leaves a gap where nothing was observed; there the quantile is not a number."""
    return f"histogram_quantile({share:g}, sum by (le) (rate({histogram}_bucket{JOB}{RECENT}))) >= 0"


def mean(histogram: str, window: str) -> str:
    """Of what was observed in the window; 0 where nothing was."""
    total, observed = rises(f"{histogram}_sum", window=window), rises(f"{histogram}_count", window=window)
    return f"{total} / clamp_min({observed}, 1)"


def ago(moment: str) -> str:
    """Seconds since the latest of some times of day, where 0 stands for never; then it is 0 as well."""
    return f"(time() - max({moment}{JOB})) * (max({moment}{JOB}) > bool 0)"


def stat(
    title: str, description: str, expression: str, unit: str, *, legend: str = "", warn: float | None = None
) -> Stat:
    """One large figure; orange from `warn` on. With a legend it shows the name instead of the value."""
    steps = [Threshold(value=None, color="blue" if warn is None else "green")]
    if warn is not None:
        steps.append(Threshold(value=warn, color="orange"))
    return (
        Stat()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .no_value("none")
        .text_mode(BigValueTextMode.NAME if legend else BigValueTextMode.VALUE)
        .graph_mode(BigValueGraphMode.NONE if legend else BigValueGraphMode.AREA)
        .color_mode(BigValueColorMode.VALUE)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .with_target(_target(0, legend, expression))
        .height(4)
    )


def lines(title: str, description: str, queries: Queries, unit: str, *, stacked: bool = False) -> TimeSeries:
    """Lines over time, from 0 up."""
    panel = (
        TimeSeries()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .fill_opacity(25 if stacked else 5)
        .stacking(StackingConfig().mode(StackingMode.NORMAL if stacked else StackingMode.NONE))
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .height(8)
    )
    for number, (legend, expression) in enumerate(queries.items()):
        panel.with_target(_target(number, legend, expression))
    return panel


def _target(number: int, legend: str, expression: str) -> Dataquery:
    return Dataquery().ref_id("ABCDEFGH"[number]).datasource(SOURCE).expr(expression).legend_format(legend).range()
