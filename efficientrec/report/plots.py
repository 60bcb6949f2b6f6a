"""What the pictures show. Each takes plain figures, and gives None where there is nothing to show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from efficientrec.features import TITLE_YEAR
from efficientrec.report.labels import write_beside
from efficientrec.report.markup import Markup
from efficientrec.report.names import metric_name
from efficientrec.report.summary import Row, Summary, Told
from efficientrec.report.svg import INK, MARKERS, SERIES, picture

SMALL = 5.4
"""Inches: of pictures that stand two in a row."""
LABELS_MAX = 14
"""Clusters whose items are written on the map; more would lie on each other."""
LABEL_LENGTH = 26


def ranking(name: str, summary: Summary) -> Markup | None:
    """The criterion of every model with its interval, best first."""
    rows = [row for row in summary.rows if summary.criterion in row.figures]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            value = row.figures[summary.criterion].interval
            look = _look(row)
            axes.plot([value.low, value.high], [place, place], color=look["color"], linewidth=2.2, alpha=0.55)
            axes.plot([value.mean], [place], linestyle="none", markersize=7, **look)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{metric_name(summary.criterion)}, with 95% interval")

    told = f"{metric_name(summary.criterion)} of {len(rows)} models, the best first"
    return picture(name, told, draw, SMALL, 0.9 + 0.27 * len(rows))


def training_time(name: str, summary: Summary) -> Markup | None:
    """Accuracy against the seconds of training and tuning."""
    rows = [row for row in summary.rows if summary.criterion in row.figures]
    if not rows:
        return None

    def draw(axes: Axes) -> None:
        points = [(max(row.seconds, 0.01), row.figures[summary.criterion].interval.mean) for row in rows]
        for row, (x, y) in zip(rows, points, strict=True):
            axes.plot([x], [y], linestyle="none", markersize=7, **_look(row))
        axes.set_xscale("log")
        axes.margins(x=0.18, y=0.12)
        write_beside(axes, points, [row.name for row in rows])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("training and choosing of parameters")
        axes.set_ylabel(metric_name(summary.criterion))

    return picture(
        name, f"{metric_name(summary.criterion)} against training time of {len(rows)} models", draw, SMALL, 3.9
    )


def tradeoff(
    name: str, points: Sequence[Told], criterion: str, whole: Mapping[str, float], items: int
) -> Markup | None:
    """Accuracy against items scored: one model, one number changed at serving. whole: models that score every item."""
    if not points:
        return None

    def draw(axes: Axes) -> None:
        written: list[tuple[float, float]] = []
        values: list[str] = []
        for place, knob in enumerate(dict.fromkeys(str(point["knob"]) for point in points)):
            mine = sorted(
                (point for point in points if point["knob"] == knob), key=lambda each: float(each["items_scored"])
            )
            x = [float(point["items_scored"]) for point in mine]
            y = [float(point["metrics"][criterion]["mean"]) for point in mine]
            low = [float(point["metrics"][criterion]["low"]) for point in mine]
            high = [float(point["metrics"][criterion]["high"]) for point in mine]
            axes.fill_between(x, low, high, color=SERIES[place], alpha=0.1, linewidth=0)
            axes.plot(x, y, color=SERIES[place], marker=MARKERS[place], markersize=5, label=knob)
            written += [(at, height) for at, height in zip(x, y, strict=True)]
            values += [f"{point['value']:g}" for point in mine]
        for place, (other, value) in enumerate(whole.items()):
            axes.axhline(value, color=INK, linewidth=1, linestyle=("--", ":", "-.")[place % 3], alpha=0.7)
            axes.annotate(
                f"{other}, all {items:,} items",
                (1, value),
                (-2, -3 if place else 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                va="top" if place else "bottom",
                fontsize=8,
            )
        axes.set_xlabel("items scored for a list, on average")
        axes.set_ylabel(metric_name(criterion))
        axes.legend(loc="lower right")
        write_beside(axes, written, values, upright=True)

    return picture(
        name, f"{metric_name(criterion)} against items scored, served with more or fewer candidates", draw, SMALL, 4.0
    )


def cold_users(name: str, points: Sequence[Told], metric: str) -> Markup | None:
    """Accuracy by the number of likes that are known, one line a model."""
    known = [point for point in points if point["events"] is not None]
    if not known:
        return None
    ticks = [int(point["events"]) for point in known]

    def draw(axes: Axes) -> None:
        whole = next((point for point in points if point["events"] is None), None)
        for place, model in enumerate(dict.fromkeys(model for point in points for model in point["models"])):
            mine = [
                (x, point["models"][model][metric])
                for x, point in zip(ticks, known, strict=True)
                if model in point["models"]
            ]
            x = [_spread(at) for at, _ in mine]
            axes.fill_between(
                x,
                [v["low"] for _, v in mine],
                [v["high"] for _, v in mine],
                color=SERIES[place],
                alpha=0.1,
                linewidth=0,
            )
            axes.plot(
                x, [v["mean"] for _, v in mine], color=SERIES[place], marker=MARKERS[place], markersize=5, label=model
            )
            if whole is not None and model in whole["models"]:
                value = whole["models"][model][metric]
                axes.errorbar(
                    [_spread(ticks[-1]) + 0.6 + 0.06 * place],
                    [value["mean"]],
                    [[value["mean"] - value["low"]], [value["high"] - value["mean"]]],
                    color=SERIES[place],
                    marker=MARKERS[place],
                    markersize=5,
                )
        labels = ["0\ndemographics" if at == 0 else str(at) for at in ticks]
        places = [_spread(at) for at in ticks]
        if whole is not None:
            labels.append(f"all\n{float(whole['events_mean']):.0f} on average")
            places.append(_spread(ticks[-1]) + 0.7)
        axes.set_xticks(places, labels)
        axes.set_xlabel("first likes of a new user that are known")
        axes.set_ylabel(metric_name(metric))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")

    return picture(name, f"{metric_name(metric)} by the number of likes known of a user", draw, SMALL, 4.0)


def cluster_map(name: str, clusters: Sequence[Told]) -> Markup | None:
    """The clusters on their plane; the size is that of their memberships, the largest are named by their items."""
    if not clusters:
        return None

    def draw(axes: Axes) -> None:
        x, y = (np.array([float(cluster[axis]) for cluster in clusters]) for axis in ("x", "y"))
        members = np.array([float(cluster["members"]) for cluster in clusters])
        size = 8 + 500 * members / members.max()
        axes.scatter(x, y, s=size, color=SERIES[0], alpha=0.35, edgecolors=INK, linewidths=0.5)
        axes.margins(0.12)
        labels = list(_named(clusters))
        points = list(zip(x.tolist(), y.tolist(), strict=True))
        write_beside(axes, points, labels, np.sqrt(size / np.pi).tolist(), LABELS_MAX)
        axes.set_xlabel("first principal component of memberships")
        axes.set_ylabel("second")
        axes.tick_params(length=0, labelbottom=False, labelleft=False)

    return picture(name, f"Map of {len(clusters)} clusters, named by their items", draw, height=5.2)


def freshness(name: str, summary: Summary, metric: str) -> Markup | None:
    """Accuracy by when lists are made: for each event, hourly, daily."""
    lines = by_refresh(summary, metric)
    if not lines:
        return None
    refreshes = [each for each in REFRESHES if any(each in line for line in lines.values())]

    def draw(axes: Axes) -> None:
        for place, (model, line) in enumerate(lines.items()):
            at = [refreshes.index(refresh) for refresh in refreshes if refresh in line]
            values = [line[refresh].figures[metric].interval for refresh in refreshes if refresh in line]
            spread = [column + 0.025 * (place - len(lines) / 2) for column in at]
            axes.errorbar(
                spread,
                [value.mean for value in values],
                [[value.mean - value.low for value in values], [value.high - value.mean for value in values]],
                color=SERIES[place % len(SERIES)],
                marker=MARKERS[place % len(MARKERS)],
                markersize=5,
                linewidth=1.4,
                elinewidth=0.8,
                label=model,
            )
        axes.set_xticks(range(len(refreshes)), [REFRESHES[refresh] for refresh in refreshes])
        axes.set_ylabel(metric_name(metric))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)

    return picture(name, f"{metric_name(metric)} by how fresh the lists are", draw, SMALL, 3.4 + 0.1 * len(lines))


REFRESHES = {"event": "per event", "hour": "hourly", "day": "daily"}
PER = ", lists per "


def by_refresh(summary: Summary, metric: str) -> dict[str, dict[str, Row]]:
    """Rows of each model that was asked with lists of more than one age, by when they were made."""
    lines: dict[str, dict[str, Row]] = {}
    for row in summary.rows:
        if metric in row.figures:
            model, _, refresh = row.name.partition(PER)
            lines.setdefault(model, {})[refresh or "event"] = row
    return {model: line for model, line in lines.items() if len(line) > 1}


def as_served(summary: Summary) -> Summary:
    """Without the models whose lists were made less often than those of the same model that stands beside them."""
    names = {row.name for row in summary.rows}
    return replace(
        summary, rows=[row for row in summary.rows if PER not in row.name or row.name.split(PER)[0] not in names]
    )


def _named(clusters: Sequence[Told]) -> Iterator[str]:
    """Of each cluster the first of its items by which no larger one is named."""
    used: set[str] = set()
    for cluster in clusters:
        own = next((str(title) for title in cluster["top"] if title not in used), "")
        used.add(own)
        yield _short(own)


def _look(row: Row) -> dict[str, Any]:
    """Baselines are hollow squares."""
    if row.baseline:
        return {"color": SERIES[5], "marker": "s", "markerfacecolor": "none"}
    return {"color": SERIES[0], "marker": "o"}


def _spread(events: int) -> float:
    """0, 1, 2, 3, 5, 10 at distances that tell them apart."""
    return float(np.log2(events + 1))


def _short(text: str) -> str:
    text = TITLE_YEAR.sub("", text).strip()
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1].rstrip() + "…"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:g} s"
    return f"{value / 60:.3g} min" if value < 3600 else f"{value / 3600:.3g} h"
