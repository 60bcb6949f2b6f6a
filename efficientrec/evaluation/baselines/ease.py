"""EASE (arXiv 1905.03375): weights between items by ridge regression, in closed form.

P = (XᵀX + λI)⁻¹,   weight(i, j) = -P_ij / P_jj,   weight(i, i) = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_matrix

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters, Unfit, matrix, product
from efficientrec.evaluation.baselines.linear import DECAYS, Linear
from efficientrec.training.data import TrainingData

ITEMS_MAX = 20_000  # beyond, the inverse takes minutes and gigabytes
RIDGES = (50.0, 150.0, 300.0, 600.0, 1200.0)
KEPT_BYTES = 3 * 2**30


@dataclass(slots=True)
class Inverses:
    """The last weights that were worked out: the inverse is what takes time, and several methods want it."""

    kept: list[tuple[TrainingData, float, NDArray[np.float32]]] = field(default_factory=list)

    def weights(self, data: TrainingData, ridge: float) -> NDArray[np.float32]:
        for other, strength, weights in self.kept:
            if other is data and strength == ridge:
                return weights
        fresh = weights_of(matrix(data), ridge)
        room = max(1, KEPT_BYTES // max(fresh.nbytes, 1))
        self.kept = [*self.kept[-(room - 1) :], (data, ridge, fresh)] if room > 1 else [(data, ridge, fresh)]
        return fresh


@dataclass(frozen=True, slots=True)
class Ease:
    """With decays below 1, a history that fades."""

    inverses: Inverses
    decays: tuple[float, ...] = (1.0,)

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        known = len(np.unique(data.item))
        if known > ITEMS_MAX:
            raise Unfit(f"{known} items; the inverse is for at most {ITEMS_MAX}")
        return product({"ridge": RIDGES, "decay": self.decays})

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        return Fit(Linear(self.inverses.weights(data, parameters["ridge"]), parameters["decay"]), parameters)


def recent(inverses: Inverses) -> Ease:
    """EASE with a history that fades."""
    return Ease(inverses, DECAYS)


def weights_of(liked: csr_matrix, ridge: float) -> NDArray[np.float32]:
    """(items, items); of items that nobody met, zeros."""
    known = np.flatnonzero(np.diff(liked.tocsc().indptr))
    some = liked[:, known]
    gram = np.asfortranarray((some.T @ some).toarray(), np.float32)
    gram[np.diag_indices_from(gram)] += np.float32(ridge)
    triangle, failed = lapack.spotrf(gram, lower=1, overwrite_a=1, clean=0)
    inverse, failed_too = lapack.spotri(triangle, lower=1, overwrite_c=1)
    assert failed == failed_too == 0, (failed, failed_too, ridge)
    weights = np.zeros((liked.shape[1], liked.shape[1]), np.float32)
    scale = np.diag(inverse)
    lower = np.tril(inverse, -1)
    weights[np.ix_(known, known)] = (lower + lower.T) / -scale
    return weights
