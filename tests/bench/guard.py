"""Whether anything has become slower: the ratios of ratios.py beside those that were stored with the commit and the
machine that gave them.

The margin of a ratio comes from the runs that were stored: twice as far as the one that lay furthest above their
median, and 15% at least: on a crowded machine two runs of the same commit were 11% apart.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.ratios import RATIOS, measured

FILE = Path(__file__).with_name("guard.json")
RUNS = 5
"""That are stored."""
MARGIN_LEAST = 0.15
DEVIATIONS = 2.0


class Verdict(msgspec.Struct):
    """A ratio then and now."""

    name: str
    stored: float
    now: float
    margin: float

    @property
    def slower(self) -> float:
        """By which share of the stored ratio; negative where it has become faster."""
        return self.now / self.stored - 1

    @property
    def is_beyond(self) -> bool:
        return self.slower > self.margin


def held(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """What is stored of several runs: of each ratio the median, the least, the most, and the margin."""
    found = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        middle = statistics.median(values)
        margin = max(MARGIN_LEAST, DEVIATIONS * (max(values) / middle - 1))
        found[name] = {"median": middle, "least": min(values), "most": max(values), "margin": margin}
    return found


def compared(stored: Mapping[str, Mapping[str, float]], now: Mapping[str, float]) -> list[Verdict]:
    """A verdict on each ratio. Both must be of the same ratios."""
    if stored.keys() != now.keys():
        raise SystemExit(
            f"stored are {', '.join(stored)}; measured are {', '.join(now)}: python -m tests.bench guard --store"
        )
    return [Verdict(name, each["median"], now[name], each["margin"]) for name, each in stored.items()]


def store(described: Mapping[str, Any], console: Console) -> None:
    """Measures several times and writes the file."""
    runs = []
    for number in range(RUNS):
        runs.append(measured())
        console.print(f"run {number + 1} of {RUNS}", runs[-1])
    FILE.write_text(json.dumps({**described, "runs": RUNS, "ratios": held(runs)}, indent=2) + "\n")


def holds(console: Console) -> bool:
    """Measures once, tells, and returns whether no ratio is beyond its margin."""
    kept = json.loads(FILE.read_text())
    begun = time.perf_counter()
    verdicts = compared(kept["ratios"], measured())
    table = Table("processor time of", "to that of", "stored", "now", "slower by", "margin", "")
    for each in verdicts:
        table.add_row(
            RATIOS[each.name].above,
            RATIOS[each.name].below,
            f"{each.stored:.3f}",
            f"{each.now:.3f}",
            f"{each.slower:+.0%}",
            f"{each.margin:.0%}",
            "SLOWER" if each.is_beyond else "ok",
        )
    console.print(table)
    console.print(
        f"{time.perf_counter() - begun:.0f} s; stored: {kept['runs']} runs of {kept['commit']} on {kept['cpu']}, "
        f"{kept['cores']} cores"
    )
    beyond = [each for each in verdicts if each.is_beyond]
    for each in beyond:
        console.print(
            f"Slower: {RATIOS[each.name].above}, by {each.slower:.0%} against {RATIOS[each.name].below}; "
            f"the margin is {each.margin:.0%}"
        )
    return not beyond
