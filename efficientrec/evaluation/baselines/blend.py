"""Two methods at once: each user's scores relative to the best of either, added up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.evaluation.questions import Question
from efficientrec.evaluation.ranks import Scorer

BETAS = (0.3, 1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Blended:
    """first / its best + β · second / its best. The second may know fewer items."""

    first: Scorer
    second: Scorer
    beta: float

    @property
    def items(self) -> int:
        return self.first.items

    def scores(self, question: Question) -> NDArray[np.float32]:
        total = relative(self.first.scores(question))
        total[:, : self.second.items] += np.float32(self.beta) * relative(self.second.scores(question))
        return total


def relative(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row divided by its greatest value, where that is positive."""
    best = scores.max(axis=1, initial=0, keepdims=True)
    return np.asarray(scores / np.where(best > 0, best, 1), np.float32)
