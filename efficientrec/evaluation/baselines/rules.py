"""SR, sequential rules: what follows an item within a few steps, the nearer the more.

  weight(i, j) = Σ 1 / distance over every time j followed i, divided by √n_i
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix

from efficientrec.evaluation.baselines.baseline import Fit, Judge, Parameters
from efficientrec.evaluation.baselines.linear import DECAYS, Linear
from efficientrec.training.data import TrainingData

WINDOW = 5


class Rules:
    """Directed counts; a history that fades."""

    def grid(self, data: TrainingData) -> Sequence[Parameters]:
        return [{"decay": decay} for decay in DECAYS]

    def fit(self, data: TrainingData, parameters: Parameters, seed: int, judge: Judge | None) -> Fit:
        return Fit(Linear(followers(data), parameters["decay"]), parameters)


def followers(data: TrainingData) -> csr_matrix:
    """(items, items) the weights, over what users liked."""
    liked = data.chosen(data.weight > 0)
    items = len(data.items)
    order = np.argsort(liked.user, kind="stable")
    user, item = liked.user[order], liked.item[order]
    total = csr_matrix((items, items), dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        same = (user[:-distance] == user[distance:]) & (item[:-distance] != item[distance:])
        first, then = item[:-distance][same], item[distance:][same]
        total = total + csr_matrix((np.full(len(first), 1 / distance, np.float32), (first, then)), (items, items))
    count = np.maximum(np.bincount(item, minlength=items), 1)
    return csr_matrix(total.multiply(1 / np.sqrt(count)[:, None]), dtype=np.float32)
