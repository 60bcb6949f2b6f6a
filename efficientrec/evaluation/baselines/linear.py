"""Scores that are a user's history times weights between items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.evaluation.questions import Question

DECAYS = (1.0, 0.9, 0.7, 0.5)


@dataclass(frozen=True, slots=True)
class Linear:
    """history · weights."""

    weights: csr_matrix | NDArray[np.float32]
    """(items, items) from what was met to what is scored."""
    decay: float = 1.0
    """What an event counts, compared with the one after it."""

    @property
    def items(self) -> int:
        return int(self.weights.shape[1])

    def scores(self, question: Question) -> NDArray[np.float32]:
        scores = question.history(self.items, self.decay) @ self.weights
        return np.asarray(scores.toarray() if isinstance(scores, csr_matrix) else scores, np.float32)
