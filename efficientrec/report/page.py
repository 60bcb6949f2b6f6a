"""The report as one page that needs nothing else: every figure, every picture, every command to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from efficientrec.evaluation.bootstrap import Interval
from efficientrec.report import plots, tables
from efficientrec.report.markup import Markup, element, joined
from efficientrec.report.names import HEADLINES, PROTOCOLS, metric_name, number, seconds
from efficientrec.report.style import STYLE
from efficientrec.report.summary import COST, Summary, Told, summary

REFERENCES = ("ease", "mult-dae", "als", "itemknn")
"""Baselines that score every item, drawn as lines beside what few items give; the first two that there are."""
LISTED_CLUSTERS = 20
MARKS = (
    "★ is the best of a column (of items scored, the fewest). ▲ and ▼ are significantly better and worse than the best "
    "baseline (paired bootstrap, p < .05, in every run), ≈ is neither."
)
ABOUT = (
    "Every figure is of a test that no choice was made on, among all items, with no sampled negatives. Small figures "
    "are 95% intervals: by bootstrap over users where there is one run, by Student over the seeds where there are more."
)
RANKED = "by which choices were made on validation, here on the test. Hollow squares are baselines."
LEARNED = "What it takes to learn and to choose parameters, on the machine named at the end."
FRESH = (
    "Freshness against accuracy: one stream, its lists made before every event, at the full hour, or at midnight (UTC)."
)
COST_TOLD = (
    "Accuracy against items scored. One trained model; what is written at a point was changed when it served, nothing "
    "was learned again. Shades are 95% intervals."
)
COLD = "New users after their first likes; what is asked for stays the same."


def page(told: Sequence[Told], title: str, made: str) -> str:
    """told: what every run gave (runs.everything). made: when and by what command."""
    names = list(dict.fromkeys(str(run["data"]) for run in told))
    links = element("ul", *(element("li", element("a", name, href=f"#{_anchor(name)}")) for name in names))
    contests = [run for run in told if run["protocol"] in PROTOCOLS]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    top = element(
        "header",
        element("h1", title),
        element(
            "p",
            f"Data sets: {len(names)}. Evaluations: {len(contests)}. {ABOUT}",
            class_="soft",
        ),
        element("nav", links, aria_label="Data sets"),
        class_="top",
    )
    sections = [_data(name, [run for run in told if run["data"] == name], place) for place, name in enumerate(names)]
    body = element("body", top, element("main", *sections, _repeat(told)), element("footer", made))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _data(name: str, told: Sequence[Told], place: int) -> Markup:
    """Everything of one data set."""
    facts: Told = next((run["facts"] for run in told if "facts" in run), {})
    cards = [element("div", element("dt", what), element("dd", value)) for what, value in facts.items()]
    protocols = [protocol for protocol in PROTOCOLS if any(run["protocol"] == protocol for run in told)]
    summaries = {protocol: summary([run for run in told if run["protocol"] == protocol]) for protocol in protocols}
    portraits = [run for run in told if run["protocol"] == "portrait"]
    return element(
        "section",
        element("h2", name, id=_anchor(name)),
        element("dl", *cards, class_="cards") if cards else None,
        *(_contest(each, f"p{place}-{protocol}") for protocol, each in summaries.items()),
        *(_portrait(run, summaries.get("strong"), f"p{place}-{number}") for number, run in enumerate(portraits)),
    )


def _contest(whole: Summary, name: str) -> Markup:
    told = plots.as_served(whole)
    heading = element("h3", PROTOCOLS[told.protocol])
    if told.skipped:
        return joined(heading, element("p", f"Left out: {told.skipped}.", class_="soft"))
    seeds = f"seed {told.seeds[0]}" if len(told.seeds) == 1 else f"{len(told.seeds)} seeds ({_listed(told.seeds)})"
    sizes = ", ".join(f"{value:,} {what.replace('_', ' ')}" for what, value in told.sizes.items())
    caption = f"{told.data}, {told.protocol}, {seeds}: {sizes}. {MARKS}"
    metrics = HEADLINES.get(told.protocol, (told.criterion,))
    rest = [metric for metric in told.metrics if metric not in metrics and metric != COST]
    base = "" if told.base_rate is None else f" judged_precision of a random list is {told.base_rate:.4f}."
    parameters = {row.name: row.parameters for row in told.rows if row.parameters}
    chosen = tables.table(
        "Parameters chosen on validation, of the first run.",
        ["model", "parameters"],
        [[model, _numbers(values)] for model, values in parameters.items()],
    )
    return joined(
        heading,
        tables.contest(told, metrics, caption),
        element(
            "div",
            _figure(
                plots.ranking(f"{name}-rank", told),
                f"{metric_name(told.criterion)}, {RANKED}",
            ),
            _figure(
                plots.training_time(f"{name}-time", told),
                LEARNED,
            ),
            _fresh(whole, name),
            class_="pictures",
        ),
        element(
            "details",
            element("summary", "All metrics and chosen parameters"),
            tables.contest(whole, rest, f"{told.data}, {told.protocol}, {seeds}: all other metrics.{base}"),
            chosen if parameters else None,
        ),
    )


def _fresh(told: Summary, name: str) -> Markup | None:
    metric = HEADLINES["prequential"][0]
    lines = plots.by_refresh(told, metric)
    if not lines:
        return None
    first = next(iter(lines.values()))
    rows = [
        [
            model,
            *(
                tables.figure(told, line[each], metric) if each in line else "–"
                for each in plots.REFRESHES
                if each in first
            ),
        ]
        for model, line in lines.items()
    ]
    head = ["model", *(words for each, words in plots.REFRESHES.items() if each in first)]
    return joined(
        _figure(
            plots.freshness(f"{name}-fresh", told, metric),
            FRESH,
        ),
        tables.table(f"{metric_name(metric)} by when lists are made.", head, rows),
    )


def _portrait(told: Told, strong: Summary | None, name: str) -> Markup:
    heading = element("h3", f"A closer look at {told['model']}")
    if "skipped" in told:
        return joined(heading, element("p", f"Left out: {told['skipped']}.", class_="soft"))
    criterion, model = str(told["criterion"]), str(told["model"])
    sizes = told["sizes"]
    learned = (
        f"Learned in {seconds(float(told['training_seconds']))}, seed {told['seed']}; asked: {sizes['test_users']:,} "
        "users whom it has not seen."
    )
    return joined(
        heading,
        element("p", learned, class_="soft"),
        element(
            "div",
            _figure(
                plots.tradeoff(
                    f"{name}-cost", told["tradeoff"], criterion, _whole(strong, criterion), int(sizes["items"])
                ),
                COST_TOLD,
            ),
            _figure(
                plots.cold_users(f"{name}-cold", told["cold_users"], "recall@20"),
                COLD,
            ),
            class_="pictures",
        ),
        _cost(told, criterion),
        _cold(told["cold_users"]),
        _new(told["cold_items"], model),
        _figure(
            plots.cluster_map(f"{name}-map", told["clusters"]),
            f"Clusters of {model}: near each other as far as they have members in common (two principal components), "
            "as large as their memberships, named by the item that sets each most apart.",
        ),
        _clusters(told["clusters"]),
    )


def _whole(strong: Summary | None, criterion: str) -> dict[str, float]:
    rows = {row.name: row for row in strong.rows} if strong is not None else {}
    found = [name for name in REFERENCES if name in rows and criterion in rows[name].figures][:2]
    return {name: rows[name].figures[criterion].interval.mean for name in found}


def _cost(told: Told, criterion: str) -> Markup:
    rows = [
        [
            f"{point['knob']}: {point['value']:g}",
            element("td", f"{point['items_scored']:,.1f}", class_="number"),
            element("td", f"{point['items_scored'] / told['sizes']['items']:.1%}", class_="number"),
            *(_value(point["metrics"], metric) for metric in dict.fromkeys(("recall@20", criterion))),
        ]
        for point in told["tradeoff"]
    ]
    head = ["changed at serving", "items scored", "of all", *map(metric_name, dict.fromkeys(("recall@20", criterion)))]
    return _folded("Figures of accuracy against items scored", tables.table("One model, served otherwise.", head, rows))


def _cold(points: Sequence[Told]) -> Markup:
    names = list(dict.fromkeys(name for point in points for name in point["models"]))
    rows = [
        [
            {None: "all", 0: "0, demographics only"}.get(point["events"], str(point["events"])),
            element("td", f"{point['events_mean']:.1f}", class_="number"),
            *(
                _value(point["models"].get(name, {}), metric)
                for name in names
                for metric in ("recall@20", "hit_rate@10")
            ),
        ]
        for point in points
    ]
    head = [
        "likes known",
        "on average",
        *(f"{name} {metric_name(metric)}" for name in names for metric in ("recall@20", "hit_rate@10")),
    ]
    caption = "Cold users. Who has liked fewer is asked with what he has; of items that he met later nothing is known."
    return _folded("Figures of cold users", tables.table(caption, head, rows))


def _new(told: Told, model: str) -> Markup:
    if "skipped" in told:
        return element("p", f"New items left out: {told['skipped']}.", class_="soft")
    caption = (
        f"New items: {told['items']:,} described items, drawn, were taken out of all interactions before learning. "
        f"Lists of these alone, for {told['users']:,} users who liked {told['targets']:,} of them. By features alone "
        f"every new item is scored; through shortlists only those that {model} nominates; among all items they compete "
        "with the whole catalogue."
    )
    return tables.answers(told["models"], ("hit_rate@10", "recall@20", "ndcg@20"), caption)


def _clusters(clusters: Sequence[Told]) -> Markup:
    total = sum(float(cluster["members"]) for cluster in clusters) or 1.0
    rows = [
        [
            f"{cluster['cluster']}",
            element("td", f"{float(cluster['members']) / total:.1%}", class_="number"),
            ", ".join(cluster["top"]) or "–",
        ]
        for cluster in clusters[:LISTED_CLUSTERS]
    ]
    caption = f"The {len(rows)} largest of {len(clusters)} clusters, and the items that set each apart."
    return _folded("Clusters and their items", tables.table(caption, ["cluster", "of memberships", "items"], rows))


def _repeat(told: Sequence[Told]) -> Markup:
    """How to get all this again, and on what it was got."""
    commands = list(dict.fromkeys(shlex.join(run["command"]) for run in told if "command" in run))
    machines: dict[str, dict[str, object]] = {}
    for run in told:
        if "machine" in run:
            machines.setdefault(repr(sorted(run["machine"].items())), dict(run["machine"]))
    return element(
        "section",
        element("h2", "To repeat it", id="repeat"),
        element("p", "Each line writes one result; the same seed gives the same figures on one thread."),
        element("pre", element("code", "\n".join(commands)), tabindex="0") if commands else None,
        *(tables.pairs("Machine and versions", each) for each in machines.values()),
    )


def _value(figures: Told, metric: str) -> Markup:
    if metric not in figures:
        return element("td", "–", class_="number")
    value = figures[metric]
    interval = Interval(value["mean"], value["low"], value["high"])
    return element("td", number(metric, interval.mean), tables.between(metric, interval), class_="number")


def _figure(picture: Markup | None, caption: str) -> Markup | None:
    return None if picture is None else element("figure", picture, element("figcaption", caption))


def _folded(what: str, content: Markup) -> Markup:
    return element("details", element("summary", what), content)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _numbers(values: Told) -> str:
    """Parameters as a reader takes them in; some have parts."""
    return ", ".join(
        f"{name} ({_numbers(value)})" if isinstance(value, dict) else f"{name} = {_plain(value)}"
        for name, value in values.items()
        if value is not None
    )


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _anchor(name: str) -> str:
    return "data-" + "".join(letter if letter.isalnum() else "-" for letter in name)
