"""What came out of an evaluation, and its form as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation import bootstrap, metrics
from efficientrec.evaluation.bootstrap import Interval, Resampled
from efficientrec.evaluation.metrics import LISTED
from efficientrec.evaluation.questions import Question
from efficientrec.evaluation.ranks import Answer
from efficientrec.training.data import TrainingData

COVERAGE = f"coverage@{LISTED}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model's figures."""

    name: str
    baseline: bool
    """Whether it is one of those that any model must beat."""
    skipped: str = ""
    """Why there are no figures, where there are none."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Those that were chosen on validation."""
    seconds: float = 0.0
    """Of training and tuning."""
    resampled: Resampled | None = None
    coverage: Interval | None = None

    def intervals(self) -> dict[str, Interval]:
        """Every metric with its interval."""
        if self.resampled is None or self.coverage is None:
            return {}
        return {**{name: self.resampled.interval(name) for name in self.resampled.mean}, COVERAGE: self.coverage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A whole evaluation."""

    data: str
    protocol: str
    seed: int
    sizes: Mapping[str, int]
    criterion: str
    """The metric that choices were made by, on validation."""
    base_rate: float | None
    """What `judged_precision` is for random lists; None where nobody rated anything low."""
    entries: Sequence[Entry]

    def best_baseline(self, metric: str) -> Entry | None:
        """The baseline with the greatest mean."""
        scored = [entry for entry in self.entries if entry.baseline and entry.resampled is not None]
        return max(scored, key=lambda entry: entry.resampled.mean[metric] if entry.resampled else 0.0, default=None)

    def as_json(self) -> dict[str, object]:
        """Plain numbers and texts. `p_value` is against the best baseline by the same metric."""
        return {
            "data": self.data,
            "protocol": self.protocol,
            "seed": self.seed,
            "sizes": dict(self.sizes),
            "criterion": self.criterion,
            "judged_base_rate": self.base_rate,
            "models": {entry.name: self._entry(entry) for entry in self.entries},
        }

    def _entry(self, entry: Entry) -> dict[str, object]:
        if entry.skipped:
            return {"skipped": entry.skipped}
        return {
            "baseline": entry.baseline,
            "parameters": dict(entry.parameters),
            "training_seconds": round(entry.seconds, 2),
            "metrics": {name: self._metric(entry, name, value) for name, value in entry.intervals().items()},
        }

    def _metric(self, entry: Entry, name: str, value: Interval) -> dict[str, object]:
        told: dict[str, object] = {"mean": value.mean, "low": value.low, "high": value.high}
        if name.startswith(metrics.COMPARED):
            best = self.best_baseline(name)
            if best is not None and best is not entry and best.resampled is not None and entry.resampled is not None:
                told["p_value"] = entry.resampled.p_value(best.resampled, name)
                told["against"] = best.name
        return told


def scored(
    name: str,
    answer: Answer,
    question: Question,
    learned: TrainingData,
    seed: int,
    *,
    baseline: bool,
    parameters: Mapping[str, float],
    seconds: float,
    unit: NDArray[np.integer] | None = None,
) -> Entry:
    """The figures of an answer. learned: what the model learned from. unit (asked,): whose each list is, where a user
    is asked more than once."""
    owners = np.bincount(
        np.unique(learned.user.astype(np.int64) * len(learned.items) + learned.item) % len(learned.items),
        minlength=len(learned.items),
    )
    users = len(np.unique(learned.user))
    rows = np.arange(len(question)) if unit is None else unit
    return Entry(
        name=name,
        baseline=baseline,
        parameters=parameters,
        seconds=seconds,
        resampled=bootstrap.resample(metrics.measures(answer, question, owners, users), rows, seed),
        coverage=bootstrap.coverage(answer.items, len(learned.items), rows, seed),
    )
