"""Pictures of what the benchmarks have written: NAME.json of a folder becomes NAME.png of another.

Colours are told apart by colour-blind eyes, too (Okabe and Ito); small print says where the figures come from. A
benchmark whose file is missing has no picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#CC79A7", "#56B4E9", "#F0E442", "#999999"),
)
STYLE: Any = {
    "figure.constrained_layout.use": True,
    "savefig.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(source: Path, to: Path, console: Console) -> None:
    """Writes a picture for each file that is there."""
    to.mkdir(parents=True, exist_ok=True)
    for name, drawn in PICTURES.items():
        file = source / f"{name}.json"
        if not file.exists():
            console.print(f"{file} is missing: no picture of it")
            continue
        figures = json.loads(file.read_text())
        with mpl.rc_context(STYLE):
            picture = drawn(figures)
            picture.text(0.005, -0.005, small_print(figures), fontsize=6, color=GREY, va="top")
            picture.savefig(to / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
        console.print(str(to / f"{name}.png"))


def small_print(figures: dict[str, Any]) -> str:
    """Where and with what: one line."""
    broker = {"kafka": "Apache Kafka, ", "embedded": "embedded broker, "}.get(figures.get("broker", ""), "")
    return f"{broker}{figures['cpu']}, {figures['cores']} cores, Python {figures['python']}; commit {figures['commit']}"


def throughput(figures: dict[str, Any]) -> Figure:
    """Lists per core-second of the worker, between what is written by the book and what the client alone can do."""
    picture, (axes,) = _panels(1, 5.5, 2.2)
    shown = {
        "idiomatic Faust agent": ("idiomatic_per_core_second", GREY),
        "worker": ("lists_per_core_second", BLUE),
        "raw aiokafka,\nno arithmetic": ("raw_per_core_second", SKY),
    }
    values = [figures[name] for name, _ in shown.values()]
    whiskers = _whiskers([figures["spread"][name] for name, _ in shown.values()])
    bars = axes.barh(list(shown), values, xerr=whiskers, color=[colour for _, colour in shown.values()])
    axes.bar_label(bars, [f"{each:,.0f}" for each in values], padding=6)
    axes.margins(x=0.15)
    axes.set_xlabel("lists per core-second (median, least and most)")
    axes.set_title(f"Throughput: {figures['ratio_per_core_second']:.0f} times the agent")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return picture


def latency(figures: dict[str, Any]) -> Figure:
    """Percentiles against load: the worker's, and dashed those of the echo, which nobody could do without."""
    picture, (axes,) = _panels(1, 5.5, 3.2)
    shares = {float(share): part for share, part in figures["shares"].items()}
    for name, title, colour, mark in (
        ("p99_9_ms", "p99.9", VERMILION, "^"),
        ("p99_ms", "p99", ORANGE, "s"),
        ("p50_ms", "p50", BLUE, "o"),
    ):
        for parts, label, line in (
            (list(shares.values()), title, "-"),
            ([part["echo"] for part in shares.values()], f"{title}, echo", "--"),
        ):
            delays = [part[name] for part in parts]
            axes.plot([100 * each for each in shares], delays, mark + line, color=colour, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_xlabel(f"load, % of saturation ({figures['saturated_per_second']:,.0f} lists/s)")
    axes.set_ylabel("from event to list, ms")
    axes.set_title("Latency under open-loop load")
    return picture


def scale(figures: dict[str, Any]) -> Figure:
    """What a list costs as each of three things grows."""
    picture, panels = _panels(3, 9, 2.8)
    top = 0.0
    for axes, (name, title) in zip(
        panels,
        {"users": "users of state", "items": "items of the model", "events": "events of a user"}.items(),
        strict=True,
    ):
        sizes = figures[name]["sizes"]
        for kind, label, colour, mark in (
            ("wall_microseconds_per_list", "on the clock", GREY, "s"),
            ("microseconds_per_list", "of processor time", BLUE, "o"),
        ):
            spreads = [part[kind] for part in sizes.values()]
            values = [each["median"] for each in spreads]
            axes.errorbar(
                [int(size) for size in sizes],
                values,
                yerr=_whiskers(spreads),
                fmt=mark + "-",
                color=colour,
                label=label,
                capsize=2,
            )
            top = max(top, *(each["most"] for each in spreads))
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.set_title(f"{figures[name]['ratio']:.2f} times from least to greatest")
    for axes in panels:
        axes.set_ylim(0, 1.1 * top)
    panels[0].set_ylabel("µs per list")
    panels[0].legend(loc="lower left")
    return picture


def pieces(figures: dict[str, Any]) -> Figure:
    """One bar, of what a list consists of."""
    picture, (axes,) = _panels(1, 7.5, 1.6)
    left = 0.0
    loop = {name: spent for name, spent in figures["loop"].items() if name != "in all"}
    colours = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, GREY)
    for (name, spent), colour in zip(loop.items(), colours, strict=True):
        axes.barh([0], [spent], left=left, color=colour, edgecolor="white")
        axes.text(left + spent / 2, 0, f"{spent:.1f}", ha="center", va="center", fontsize=7, color=_ink(colour))
        axes.text(left + spent / 2, 0.45, name.removeprefix("the "), ha="left", va="bottom", fontsize=7, rotation=30)
        left += spent
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-0.42, 1.1)
    axes.set_xlabel(f"µs of processor time per list; {figures['loop']['in all']:.0f} in all")
    return picture


def recovery(figures: dict[str, Any]) -> Figure:
    """How long users wait, by what became of their worker."""
    picture, (axes,) = _panels(1, 6.5, 2.8)
    cases = list(figures["seconds"])
    left = [0.0] * len(cases)
    for step, label, colour in (
        ("dealt", "until partitions are dealt", GREY),
        ("first", "until the first list", BLUE),
        ("all", "until every partition's", SKY),
    ):
        until = [max(figures["seconds"][case][step]["median"], start) for case, start in zip(cases, left, strict=True)]
        spans = [end - start for start, end in zip(left, until, strict=True)]
        axes.barh(cases, spans, left=left, color=colour, label=label)
        left = until
    for place, seconds in enumerate(left):
        axes.text(seconds, place, f" {seconds:.1f} s", va="center")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel("seconds (medians)")
    axes.set_title(
        f"Until a list, when a worker was ...; {figures['rows']:,} rows, "
        f"{figures['rows_per_second']['median']:,.0f} restored per second"
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return picture


def cores(figures: dict[str, Any]) -> Figure:
    """Lists per second, and per core-second, of one worker and of two."""
    picture, panels = _panels(2, 5.5, 2.4)
    for axes, kind, title in zip(
        panels,
        ("lists_per_second", "lists_per_core_second"),
        ("lists per second", "lists per core-second"),
        strict=True,
    ):
        spreads = [part[kind] for part in figures["workers"].values()]
        values = [each["median"] for each in spreads]
        names = [f"{workers} worker{'s' * (workers != '1')}" for workers in figures["workers"]]
        bars = axes.bar(names, values, 0.6, yerr=_whiskers(spreads), color=[BLUE, GREEN], capsize=2)
        axes.bar_label(bars, [f"{each:,.0f}" for each in values], padding=3)
        axes.margins(y=0.15)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(title)
    return picture


PICTURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "throughput": throughput,
    "latency": latency,
    "scale": scale,
    "pieces": pieces,
    "recovery": recovery,
    "cores": cores,
}


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    picture = Figure(figsize=(width, height))
    return picture, [picture.add_subplot(1, count, number + 1) for number in range(count)]


def _whiskers(spreads: Sequence[dict[str, float]]) -> list[list[float]]:
    """From the median to the least and to the most."""
    return [
        [each["median"] - each["least"] for each in spreads],
        [each["most"] - each["median"] for each in spreads],
    ]


def _ink(colour: str) -> str:
    """What can be read on this colour."""
    return "black" if colour in (ORANGE, YELLOW, SKY, GREY) else "white"
