"""Figures as tables that can be read without seeing them: captions, headers of rows and columns, words for marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from efficientrec.evaluation.bootstrap import Interval
from efficientrec.report.markup import Markup, element, joined
from efficientrec.report.names import metric_name, number, seconds
from efficientrec.report.summary import COST, Row, Summary, Told

MARKS = {
    "better": ("▲", "significantly better than the best baseline"),
    "worse": ("▼", "significantly worse than the best baseline"),
    "even": ("≈", "not significantly other than the best baseline"),
}


def table(caption: str | Markup, head: Sequence[str | Markup], rows: Iterable[Sequence[str | Markup]]) -> Markup:
    """A table whose first column names its rows; it scrolls by itself where the page is narrow."""
    top = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    body = element(
        "tbody",
        *(
            element(
                "tr",
                element("th", row[0], scope="row"),
                *(cell if _is_cell(cell) else element("td", cell) for cell in row[1:]),
            )
            for row in rows
        ),
    )
    inner = element("table", element("caption", element("span", caption)), top, body)
    return element("div", inner, class_="wide", tabindex="0", role="region", aria_label="table, scrolls sideways")


def contest(summary: Summary, metrics: Sequence[str], caption: str) -> Markup:
    """One row a model: metrics with intervals and significance, items scored, seconds."""
    shown = [metric for metric in (*metrics, COST) if metric in summary.metrics]
    rows: list[Sequence[str | Markup]] = []
    for row in summary.rows:
        if row.skipped:
            note = element("td", f"left out: {row.skipped}", colspan=str(len(shown) + 1), class_="skipped")
            rows.append([_model(row), note])
        else:
            cells = [figure(summary, row, metric) for metric in shown]
            rows.append([_model(row), *cells, element("td", seconds(row.seconds), class_="number")])
    return table(caption, ["model", *map(metric_name, shown), "training"], rows)


def figure(summary: Summary, row: Row, metric: str) -> Markup:
    """A cell: the mean, its interval, and marks for the best of the column and for significance."""
    if metric not in row.figures:
        return element("td", "–", class_="number")
    told, best = row.figures[metric], row in summary.best(metric)
    value: Markup = element("span", number(metric, told.interval.mean), class_="value")
    if best:
        value = element("strong", element("span", "★ ", title="best of the column", class_="mark"), value)
    mark = None
    if told.verdict in MARKS:
        sign, words = MARKS[told.verdict]
        mark = joined(" ", element("abbr", sign, title=words, class_=told.verdict))
    return element("td", value, mark, between(metric, told.interval), class_="number best" if best else "number")


def between(metric: str, value: Interval) -> Markup:
    """An interval below its mean."""
    return element("span", f"{number(metric, value.low)} – {number(metric, value.high)}", class_="interval")


def answers(models: Told, metrics: Sequence[str], caption: str) -> Markup:
    """Figures of several models as a portrait has them, the best of a column marked."""
    shown = [metric for metric in metrics if all(metric in figures for figures in models.values())]
    best = {metric: max(float(figures[metric]["mean"]) for figures in models.values()) for metric in shown}
    rows = [
        [
            name,
            *(
                _told(metric, models[name][metric], float(models[name][metric]["mean"]) == best[metric])
                for metric in shown
            ),
        ]
        for name in models
    ]
    return table(caption, ["", *map(metric_name, shown)], rows)


def _told(metric: str, value: Told, best: bool) -> Markup:
    interval = Interval(value["mean"], value["low"], value["high"])
    mean: Markup = element("span", number(metric, interval.mean), class_="value")
    if best:
        mean = element("strong", element("span", "★ ", title="best of the column", class_="mark"), mean)
    return element("td", mean, between(metric, interval), class_="number best" if best else "number")


def pairs(caption: str, values: Told) -> Markup:
    """Names and values."""
    return table(caption, ["", "value"], [[name, _plain(value)] for name, value in values.items()])


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return str(value)


def _model(row: Row) -> Markup:
    if row.baseline:
        return joined(row.name, " ", element("span", "baseline", class_="kind"))
    return joined(element("b", row.name))


def _is_cell(cell: str | Markup) -> bool:
    return isinstance(cell, Markup) and cell.startswith("<td")
