"""A board drawn by matplotlib: its panels where they stand, their queries as a Prometheus answers them.

Grafana draws it better, but comes in no package that a test could install.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.grafana.boards import DASHBOARDS, WIDTH
from tests.prometheus import Prometheus

CELL = (0.75, 0.42)
"""Inches of a cell of Grafana's grid."""
LEGENDS_MAX = 6
UNITS = {"s": "s", "percentunit": "share", "bytes": "bytes", "eps": "/s", "ops": "/s", "rps": "/s", "reqps": "/s"}


def draw(name: str, variables: Mapping[str, str], prometheus: Prometheus, span: tuple[float, float], to: Path) -> None:
    """span: from when to when, times of day."""
    panels = json.loads((DASHBOARDS / name).read_text())["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(WIDTH * CELL[0], height * CELL[1]), dpi=60)
    for panel in panels:
        place = panel["gridPos"]
        left, bottom = place["x"] / WIDTH, 1 - (place["y"] + place["h"]) / height
        if panel["type"] == "row":
            figure.text(0.008, bottom + 0.2 / height, panel["title"], fontsize=15, weight="bold")
            continue
        top = bottom + (place["h"] - 0.5) / height
        figure.text(left + 0.008, top - 0.3 / height, panel["title"], fontsize=11, color="0.25")
        answers = {
            legend: points
            for target in panel["targets"]
            for legend, points in _answers(target, variables, prometheus, span).items()
        }
        unit = panel["fieldConfig"]["defaults"].get("unit", "")
        if panel["type"] == "stat":
            figure.text(
                left + 0.008, bottom + 1.2 / height, _figure(panel, answers, unit), fontsize=22, color="#1f60c4"
            )
            continue
        box = (left + 0.025, bottom + 0.9 / height, place["w"] / WIDTH - 0.035, (place["h"] - 2.4) / height)
        _lines(figure.add_axes(box), answers, span[0], unit)
    figure.savefig(to)


def _answers(
    target: Mapping[str, Any], variables: Mapping[str, str], prometheus: Prometheus, span: tuple[float, float]
) -> dict[str, list[tuple[float, float]]]:
    expression = target["expr"]
    for variable, value in variables.items():
        expression = expression.replace(variable, value)
    answers = {}
    for series, points in prometheus.lines(expression, *span, 1.0).items():
        legend = target["legendFormat"]
        for label, value in json.loads(series).items():
            legend = legend.replace(f"{{{{{label}}}}}", value)
        answers[legend] = [point for point in points if math.isfinite(point[1])]
    return answers


def _figure(panel: Mapping[str, Any], answers: Mapping[str, list[tuple[float, float]]], unit: str) -> str:
    if panel["options"]["textMode"] == "name":
        return max(answers, key=lambda legend: answers[legend][-1][0])
    (points,) = answers.values()
    value = points[-1][1]
    if unit == "percentunit":
        return f"{100 * value:.1f}%"
    return (
        f"{value / 2**20:.0f} MiB"
        if unit == "bytes"
        else f"{value:,.{0 if value >= 100 else 2}f} {UNITS.get(unit, '')}"
    )


def _lines(axes: Axes, answers: Mapping[str, list[tuple[float, float]]], began: float, unit: str) -> None:
    shown = sorted(answers, key=lambda legend: -max((value for _, value in answers[legend]), default=0))
    for number, legend in enumerate(shown):
        times, values = zip(*answers[legend], strict=True) if answers[legend] else ((), ())
        label = legend if number < LEGENDS_MAX else None
        axes.plot([at - began for at in times], values, lw=1.2, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(UNITS.get(unit, ""), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncol=3, loc="upper left", frameon=False)
