"""Several runs of one data set and protocol as one table of figures: means over the seeds, their intervals, and who is
significantly better than the best baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from efficientrec.evaluation.bootstrap import Interval

Told = Mapping[str, Any]
"""An evaluation as its JSON has it (results.py)."""
SIGNIFICANT = 0.05
COST = "items_scored"
"""Of which less is better."""
ALIKE = 1e-9


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of a model, over the seeds."""

    interval: Interval
    verdict: str
    """better, worse: than the best baseline, significantly and in every run. even: neither. "": not compared, or the
    best baseline itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model."""

    name: str
    baseline: bool
    figures: Mapping[str, Figure]
    seconds: float
    """Of training and tuning, on average."""
    parameters: Told
    """Those of the first run."""
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """All runs of a data set by a protocol."""

    data: str
    protocol: str
    criterion: str
    sizes: Mapping[str, int]
    """Of the first run."""
    base_rate: float | None
    seeds: Sequence[int]
    rows: Sequence[Row]
    """The best by the criterion first, those without figures last."""
    skipped: str = ""
    """Why there are no figures at all, where there are none."""

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for row in self.rows for metric in row.figures))

    def best(self, metric: str) -> list[Row]:
        """The rows with the greatest mean, or the least where less is better; several where they do not differ."""
        sign = -1 if metric == COST else 1
        values = {row.name: sign * row.figures[metric].interval.mean for row in self.rows if metric in row.figures}
        most = max(values.values(), default=0.0)
        return [row for row in self.rows if row.name in values and values[row.name] >= most - ALIKE * abs(most)]


def summary(runs: Sequence[Told]) -> Summary:
    """The runs of one data set and protocol, one a seed."""
    runs = sorted(runs, key=lambda run: int(run["seed"]))
    first = next((run for run in runs if "models" in run), runs[0])
    names = dict.fromkeys(name for run in runs for name in run.get("models", {}))
    rows = [_row(name, [run for run in runs if name in run.get("models", {})]) for name in names]
    criterion = str(first.get("criterion", ""))
    rows.sort(key=lambda row: -row.figures[criterion].interval.mean if criterion in row.figures else math.inf)
    return Summary(
        data=str(first["data"]),
        protocol=str(first["protocol"]),
        criterion=criterion,
        sizes=first.get("sizes", {}),
        base_rate=first.get("judged_base_rate"),
        seeds=[int(run["seed"]) for run in runs],
        rows=rows,
        skipped="" if "models" in first else str(first.get("skipped", "")),
    )


def over_seeds(runs: Sequence[Told]) -> Interval:
    """The mean of one figure over runs: of several with Student's interval, of one with its own."""
    means = np.array([run["mean"] for run in runs], np.float64)
    mean = float(means.mean())
    if len(means) == 1:
        return Interval(mean, float(runs[0]["low"]), float(runs[0]["high"]))
    wide = float(t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    return Interval(mean, mean - wide, mean + wide)


def _row(name: str, runs: Sequence[Told]) -> Row:
    """runs: those in which the model took part."""
    scored = [run for run in runs if "metrics" in run["models"][name]]
    if not scored:
        told = runs[0]["models"][name]
        return Row(name, bool(told.get("baseline", True)), {}, 0.0, {}, str(told.get("skipped", "")))
    entries = [run["models"][name] for run in scored]
    metrics = [metric for metric in entries[0]["metrics"] if all(metric in entry["metrics"] for entry in entries)]
    return Row(
        name=name,
        baseline=bool(entries[0]["baseline"]),
        figures={
            metric: Figure(over_seeds([entry["metrics"][metric] for entry in entries]), _verdict(name, metric, scored))
            for metric in metrics
        },
        seconds=float(np.mean([entry["training_seconds"] for entry in entries])),
        parameters=entries[0]["parameters"],
    )


def _verdict(name: str, metric: str, runs: Sequence[Told]) -> str:
    """Each run has its own best baseline and its own test; only what all of them agree on is told."""
    verdicts = set()
    for run in runs:
        told = run["models"][name]["metrics"][metric]
        if "p_value" not in told:
            verdicts.add("")
            continue
        against = run["models"][told["against"]]["metrics"][metric]["mean"]
        sure = told["p_value"] < SIGNIFICANT
        verdicts.add(("better" if told["mean"] > against else "worse") if sure else "even")
    if len(verdicts) == 1:
        return verdicts.pop()
    return "even"
