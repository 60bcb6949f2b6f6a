"""ItemKNN: items resemble each other as far as they have users in common.

weight(i, j) = cooccurrence / (√(n_i n_j) + shrink)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_matrix, vstack

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters, matrix, product
from efficientrec.evaluation.baselines.linear import DECAYS, Linear
from efficientrec.training.data import TrainingData

NEIGHBOURS = 1000
"""Kept of an item; what comes after them changes no list that is looked at."""
CHUNK = 1000


@dataclass(slots=True)
class ItemKNN:
    """Cosine with shrinkage; a history that fades."""

    _last: tuple[TrainingData, float, csr_matrix] | None = field(init=False, default=None)
    """The weights that were worked out last, and of what: the decay does not change them."""

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        return product({"shrink": (0.0, 10.0, 100.0), "decay": DECAYS})

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        if self._last is None or self._last[0] is not data or self._last[1] != parameters["shrink"]:
            self._last = data, parameters["shrink"], neighbours(matrix(data), parameters["shrink"])
        return Fit(Linear(self._last[2], parameters["decay"]), parameters)


def neighbours(liked: csr_matrix, shrink: float) -> csr_matrix:
    """(items, items) the weights, of each item its NEIGHBOURS greatest."""
    size = np.sqrt(np.asarray(liked.multiply(liked).sum(axis=0)).ravel()).astype(np.float32)
    columns = csr_matrix(liked.T)
    parts = []
    for first in range(0, columns.shape[0], CHUNK):
        some = csr_matrix(columns[first : first + CHUNK] @ liked)
        owner = np.repeat(np.arange(some.shape[0]), np.diff(some.indptr))
        some.data /= size[first + owner] * size[some.indices] + np.float32(shrink)
        some.data[some.indices == first + owner] = 0
        if np.diff(some.indptr).max(initial=0) > NEIGHBOURS:
            order = np.lexsort((some.indices, -some.data, owner))
            rank = np.arange(len(owner)) - some.indptr[owner]
            some.data[order[rank >= NEIGHBOURS]] = 0
        some.eliminate_zeros()
        parts.append(some)
    return csr_matrix(vstack(parts))
