"""The Grafana boards as code: what they share, and how they become files.

`python -m deploy.grafana.boards` writes `deploy/grafana/dashboards/`; a test sees to it that what lies there is current
and that every metric asked for exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, VariableOption, VariableRefresh, VariableSort

from deploy.grafana import flow, training
from deploy.grafana.panels import JOB, SOURCE, Panels

DASHBOARDS = Path(__file__).parent / "dashboards"
WIDTH = 24  # of Grafana's grid
MODEL_SWAPS = "count by (model_version) (efficientrec_model_info unless efficientrec_model_info offset 30s)"


def efficientrec() -> Dashboard:
    """From the event to the list: every worker, and the server that hands lists out."""
    return _board(
        "EfficientRec",
        "efficientrec",
        "From the event to the list: traffic, freshness, state, models, quality, resources, server.",
        "efficientrec_partitions_assigned",
        flow.rows(),
    )


def trainer() -> Dashboard:
    """From the log to the released model."""
    return _board(
        "EfficientRec trainer",
        "efficientrec-trainer",
        "From the log of interactions to the released model: log, trainings, scores, resources.",
        "efficientrec_trainer_running",
        training.rows(),
    )


def _board(title: str, uid: str, description: str, owned: str, rows: Mapping[str, Panels]) -> Dashboard:
    """owned: a metric that only the board's own processes have, by which their jobs are found."""
    board = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["efficientrec"])
        .readonly()
        .time("now-30m", "now")
        .refresh("5s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_choice("job", "Job", f"label_values({owned}, job)"))
        .with_variable(
            _choice("partition", "Partition", f"label_values(efficientrec_consumer_lag_records{JOB}, partition)")
        )
        .annotation(
            AnnotationQuery().name("Model swaps").datasource(SOURCE).enable(True).icon_color("purple").expr(MODEL_SWAPS)
        )
    )
    ids = count(1)  # links to a panel name it by its id
    for row, panels in rows.items():
        board.with_row(Row(row).id(next(ids)))
        figures = sum(isinstance(panel, Stat) for panel in panels)
        for panel in panels:  # figures share a line; of the others three fill one, or four where that leaves no gap
            span = WIDTH // figures if figures else WIDTH // (4 if len(panels) % 4 == 0 else 3)
            board.with_panel(panel.id(next(ids)).span(span))
    return board


def _choice(name: str, label: str, query: str) -> QueryVariable:
    """Some or all of the values that Prometheus knows."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .multi(True)
        .include_all(True)
        .current(VariableOption(text="All", value="$__all"))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NUMERICAL_ASC)
    )


def render(board: Dashboard) -> str:
    """The board as the file that Grafana reads."""
    return JSONEncoder(indent=2, sort_keys=True).encode(board.build()) + "\n"


BOARDS = {"efficientrec.json": efficientrec, "trainer.json": trainer}


def main() -> None:
    """Writes every board."""
    DASHBOARDS.mkdir(exist_ok=True)
    for name, board in BOARDS.items():
        (DASHBOARDS / name).write_text(render(board()))


if __name__ == "__main__":
    main()
