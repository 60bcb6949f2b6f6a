"""Popularity: the likes of each item, all alike or the older the fewer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters
from efficientrec.evaluation.questions import Question
from efficientrec.training.data import TrainingData
from efficientrec.training.popularity import decayed

DAY = 86_400.0
HALF_LIVES_DAYS = (1.0, 7.0, 30.0, 180.0)


@dataclass(frozen=True, slots=True)
class Counted:
    """The same score for everybody."""

    count: NDArray[np.float32]

    @property
    def items(self) -> int:
        return len(self.count)

    def scores(self, question: Question) -> NDArray[np.float32]:
        return np.tile(self.count, (len(question), 1))


@dataclass(frozen=True, slots=True)
class Popularity:
    """Counts of likes; with half-lives, each is tried."""

    half_lives_days: tuple[float, ...] = (math.inf,)

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        return [{} if math.isinf(days) else {"half_life_days": days} for days in self.half_lives_days]

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        count = decayed(data, parameters.get("half_life_days", math.inf) * DAY)
        return Fit(Counted(count.astype(np.float32)), parameters)


RECENCY = Popularity(HALF_LIVES_DAYS)
