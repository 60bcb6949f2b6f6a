"""How far a figure can be trusted: users drawn anew with repetition, the same draws for every model.

Who is asked several times is drawn with all of his questions, since these are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.evaluation.metrics import LISTED, Ratio

DRAWS = 1000
CHUNK = 100
COVERAGE_DRAWS = 200  # each looks at every place of every list


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resampled:
    """A model's metrics, and what they would have been for other users."""

    mean: Mapping[str, float]
    draws: Mapping[str, NDArray[np.float64]]
    """(DRAWS,) of each metric; draw n is of the same users for all models."""

    def interval(self, metric: str) -> Interval:
        low, high = np.percentile(self.draws[metric], (2.5, 97.5))
        return Interval(self.mean[metric], float(low), float(high))

    def p_value(self, other: Resampled, metric: str) -> float:
        """How easily a difference from another model this large, either way, comes from the choice of users alone."""
        difference = self.draws[metric] - other.draws[metric]
        below, above = (difference <= 0).mean(), (difference >= 0).mean()
        return float(min(1.0, 2 * max(min(below, above), 1 / len(difference))))


def resample(measures: Mapping[str, Ratio], unit: NDArray[np.integer], seed: int) -> Resampled:
    """Draws users DRAWS times. unit (rows,): whose each row is, counted from 0."""
    names = list(measures)
    units = int(unit.max()) + 1 if len(unit) else 0
    columns = np.stack(
        [np.bincount(unit, part, units) for ratio in measures.values() for part in (ratio.above, ratio.below)], axis=1
    )
    sums = np.concatenate([drawn @ columns for drawn in _drawn(units, DRAWS, seed)])
    below = sums[:, 1::2]
    values = np.divide(sums[:, ::2], below, out=np.zeros_like(below), where=below != 0)
    return Resampled(
        {name: ratio.mean() for name, ratio in measures.items()},
        {name: values[:, place] for place, name in enumerate(names)},
    )


def coverage(items: NDArray[np.int32], known: int, unit: NDArray[np.integer], seed: int) -> Interval:
    """Share of the known items that stand in the first LISTED places of any list. Drawn users are fewer distinct ones,
    who cover less; the interval is as wide as that of the draws, around the share itself."""
    shown = items[:, :LISTED]
    row, column = np.nonzero(shown >= 0)
    units = int(unit.max()) + 1 if len(unit) else 0
    listed = csr_matrix((np.ones(len(row), np.float32), (shown[row, column], unit[row])), (known, units))
    share = len(np.unique(shown[shown >= 0])) / max(known, 1)
    drawn = np.concatenate([((listed @ (some.T > 0)) > 0).mean(axis=0) for some in _drawn(units, COVERAGE_DRAWS, seed)])
    low, high = np.percentile(drawn - drawn.mean(), (2.5, 97.5))
    return Interval(share, share + float(low), share + float(high))


def _drawn(units: int, draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """(CHUNK, units) how often each is drawn."""
    generator = np.random.default_rng(seed)
    for first in range(0, draws, CHUNK):
        count = min(CHUNK, draws - first)
        chosen = generator.integers(0, max(units, 1), (count, units)) + units * np.arange(count)[:, None]
        yield np.bincount(chosen.ravel(), minlength=count * units).reshape(count, units).astype(np.float32)
