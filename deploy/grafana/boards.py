"""The Grafana board as code: what stands on it, in the order in which an event passes through the system.

`python -m deploy.grafana.boards` writes `deploy/grafana/dashboards/`; a test sees to it that what lies there is current
and that every metric asked for exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import AnnotationQuery, Dashboard, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
)

DASHBOARDS = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")  # as provisioning/datasources names it
WIDTH = 24  # of Grafana's grid

Queries = Mapping[str, str]
"""Legend and expression of each line."""


def efficientrec() -> Dashboard:
    """From the event to the list, then the model that made the list, then the trainer that made the model."""
    board = (
        Dashboard("EfficientRec")
        .uid("efficientrec")
        .description("From the event to the list: traffic, freshness, work, models, training.")
        .tags(["efficientrec"])
        .readonly()
        .time("now-30m", "now")
        .refresh("5s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .annotation(
            AnnotationQuery()
            .name("Model swaps")
            .datasource(SOURCE)
            .enable(True)
            .icon_color("purple")
            .expr("sum by (model_version) (efficientrec_model_info unless efficientrec_model_info offset 30s)")
        )
    )
    ids = count(1)  # links to a panel name it by its id
    for title, panels in (
        ("Now", _now()),
        ("Traffic", _traffic()),
        ("Freshness", _freshness()),
        ("Work", _work()),
        ("Models", _models()),
        ("Trainer", _trainer()),
    ):
        board.with_row(Row(title).id(next(ids)))
        for panel in panels:  # six small ones, or three large ones, fill a line
            board.with_panel(panel.id(next(ids)).span(WIDTH // 6 if isinstance(panel, Stat) else WIDTH // 3))
    return board


def _now() -> list[Stat | TimeSeries]:
    return [
        _stat(
            "Events",
            "Interactions that came in, each second. None while producers send means that no worker is assigned.",
            "sum(rate(efficientrec_events_total[$__rate_interval]))",
            "eps",
        ),
        _stat(
            "Set aside, last hour",
            "Records that could not be used. Look at their reasons below, and at the dead-letter topic for the bytes.",
            "sum(increase(efficientrec_dlq_records_total[1h]))",
            "short",
            warn=1,
        ),
        _stat(
            "Waiting",
            "Interactions that the broker has and the workers have not handled. Growing: add workers.",
            'sum(max by (topic, partition) (efficientrec_consumer_lag_records{job="worker"}))',
            "short",
        ),
        _stat(
            "Event to list, p99",
            "99 of 100 lists of the last minutes were out within this time of their event's arrival at the broker.",
            _quantile(0.99, "efficientrec_event_to_publish_latency_seconds"),
            "s",
            warn=1,
        ),
        _stat(
            "Lists",
            "Lists that the broker has acknowledged, each second.",
            "sum(rate(efficientrec_recommendations_published_total[$__rate_interval]))",
            "ops",
        ),
        _stat(
            "Model",
            "The version in service. Two for longer than a swap takes: a worker refuses the newer one, and logs why.",
            "count by (model_version) (efficientrec_model_info)",
            "short",
            legend="{{model_version}}",
        ),
    ]


def _traffic() -> list[Stat | TimeSeries]:
    return [
        _lines(
            "Events by outcome",
            "applied: folded into a profile. repeated: the producer sent the same event id again. replayed: delivered "
            "again after a restart, and skipped. invalid: set aside.",
            {"{{outcome}}": "sum by (outcome) (rate(efficientrec_events_total[$__rate_interval]))"},
            "eps",
            stacked=True,
        ),
        _lines(
            "Events by type",
            "What users did. A type that vanishes is more often a broken producer than a change of habit.",
            {"{{event_type}}": "sum by (event_type) (rate(efficientrec_events_total[$__rate_interval]))"},
            "eps",
            stacked=True,
        ),
        _lines(
            "Dead letters by reason",
            "Records set aside, with key and bytes untouched, in the dead-letter topic, whose headers say more.",
            {"{{reason}}": "sum by (reason) (rate(efficientrec_dlq_records_total[$__rate_interval]))"},
            "rps",
            stacked=True,
        ),
    ]


def _freshness() -> list[Stat | TimeSeries]:
    latency = "efficientrec_event_to_publish_latency_seconds"
    return [
        _lines(
            "Event to list",
            "From the moment at which the broker got an event to the acknowledged list that takes it in. After an "
            "outage it shows how old the events are that are being caught up with.",
            {name: _quantile(share, latency) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))},
            "s",
        ),
        _lines(
            "Waiting interactions and users",
            "Records not yet handled, of all partitions of a topic.",
            {
                "{{topic}}": "sum by (topic) (max by (topic, partition) "
                '(efficientrec_consumer_lag_records{job="worker"}))'
            },
            "short",
        ),
        _lines(
            "Age of the newest event handled",
            "By the event's own time: it rises when nobody does anything, and when nothing is handled.",
            {"age": "time() - max(efficientrec_last_event_timestamp_seconds > 0)"},
            "s",
        ),
    ]


def _work() -> list[Stat | TimeSeries]:
    return [
        _lines(
            "Lists",
            "Lists that the broker has acknowledged, by what they were made for.",
            {"{{reason}}": "sum by (reason) (rate(efficientrec_recommendations_published_total[$__rate_interval]))"},
            "ops",
            stacked=True,
        ),
        _lines(
            "Time by stage",
            "Seconds a second that workers spend in each step of a run. One worker has one second: near that, add "
            "workers. send waits for the broker, everything else computes or reads and writes the disk.",
            {
                "{{stage}}": "sum by (stage) (rate(efficientrec_stage_duration_seconds_sum[$__rate_interval]))",
            },
            "s",
            stacked=True,
        ),
        _lines(
            "Records of a run",
            "How many records are handled as one. Large runs mean that workers are catching up.",
            {
                "mean": "sum(rate(efficientrec_run_events_sum[$__rate_interval]))"
                " / (sum(rate(efficientrec_run_events_count[$__rate_interval])) > 0)",
                "p99": _quantile(0.99, "efficientrec_run_events"),
            },
            "short",
        ),
        _lines(
            "Workers and partitions",
            "Partitions by worker. A worker without any has nothing to do; partitions without a worker wait.",
            {"{{instance}}": "efficientrec_partitions_assigned"},
            "short",
            stacked=True,
        ),
        _lines(
            "Copies behind",
            "Each worker keeps copies of partitions that others serve, to take over at once. How many records of the "
            "changelog they lack: that much must be read before a copy can serve.",
            {"{{instance}}": "sum by (instance) (efficientrec_standby_lag_records)"},
            "short",
        ),
        _lines(
            "Trouble",
            "Rebalances happen when workers come and go; runs whose partition has gone are left to its new worker. "
            "What the broker did not take is sent again, and its partition waits for it. Misplaced interactions come "
            "from a producer that does not place keys by murmur2.",
            {
                "rebalances": "sum(increase(efficientrec_rebalances_total[$__rate_interval]))",
                "runs left to others": "sum(increase(efficientrec_runs_abandoned_total[$__rate_interval]))",
                "sent again": "sum(increase(efficientrec_send_failures_total[$__rate_interval]))",
                "misplaced": "sum(increase(efficientrec_key_partition_mismatches_total[$__rate_interval]))",
            },
            "short",
        ),
    ]


def _models() -> list[Stat | TimeSeries]:
    return [
        _lines(
            "Workers by model",
            "How many workers serve each version; nothing before the first, while lists come from popularity.",
            {"{{model_version}}": "count by (model_version) (efficientrec_model_info)"},
            "short",
            stacked=True,
        ),
        _lines(
            "Swaps",
            "Models offered to workers. A refused one left the old one serving, and the worker's log says why.",
            {"{{outcome}}": "sum by (outcome) (increase(efficientrec_model_swaps_total[$__rate_interval]))"},
            "short",
        ),
        _lines(
            "Time of a swap",
            "From the announcement of a model to its first use: read, check, probe. The old one serves meanwhile.",
            {
                "mean": "sum(increase(efficientrec_model_swap_duration_seconds_sum[10m]))"
                " / (sum(increase(efficientrec_model_swap_duration_seconds_count[10m])) > 0)"
            },
            "s",
        ),
    ]


def _trainer() -> list[Stat | TimeSeries]:
    return [
        _lines(
            "Trainings, last hour",
            "By what came of them. refused: scored worse than the serving model, as it should happen now and then. "
            "failed: the trainer's log says why.",
            {"{{outcome}}": "sum by (outcome) (increase(efficientrec_trainer_runs_total[1h]))"},
            "short",
        ),
        _lines(
            "Time of a training",
            "From the start of its process to its verdict, mean of the last hour.",
            {
                "mean": "sum(increase(efficientrec_trainer_duration_seconds_sum[1h]))"
                " / (sum(increase(efficientrec_trainer_duration_seconds_count[1h])) > 0)"
            },
            "s",
        ),
        *(
            _lines(
                f"{title} of the last training",
                f"{metric} on later events that were held out: of the new model, of the one that served, and of "
                "decayed popularity. More is better; 0 stands for not judged.",
                {"{{model}}": f'max by (model) (efficientrec_eval_metric{{metric="{metric}"}})'},
                "short",
            )
            for title, metric in (("NDCG", "ndcg@20"), ("Recall", "recall@20"), ("Hit rate", "hit_rate@10"))
        ),
        _lines(
            "Interaction log",
            "Interactions that are safe on the trainer's disk, and those that wait to be.",
            {
                "safe": "sum(efficientrec_trainer_log_rows)",
                "waiting": 'sum(efficientrec_consumer_lag_records{job="trainer"})',
            },
            "short",
        ),
    ]


def _quantile(share: float, histogram: str) -> str:
    """The comparison leaves a gap where nothing was observed; there the quantile is not a number."""
    return f"histogram_quantile({share:g}, sum by (le) (rate({histogram}_bucket[$__rate_interval]))) >= 0"


def _stat(
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


def _lines(title: str, description: str, queries: Queries, unit: str, *, stacked: bool = False) -> TimeSeries:
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


def render(board: Dashboard) -> str:
    """The board as the file that Grafana reads."""
    return JSONEncoder(indent=2, sort_keys=True).encode(board.build()) + "\n"


BOARDS = {"efficientrec.json": efficientrec}


def main() -> None:
    """Writes every board."""
    DASHBOARDS.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (DASHBOARDS / name).write_text(render(board()))


if __name__ == "__main__":
    main()
