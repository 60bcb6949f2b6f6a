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
    first, then, worth = [], [], []
    for distance in range(1, WINDOW + 1):
        same = (user[:-distance] == user[distance:]) & (item[:-distance] != item[distance:])
        first.append(item[:-distance][same])
        then.append(item[distance:][same])
        worth.append(np.full(int(same.sum()), 1 / distance, np.float32))
    pairs = (np.concatenate(first), np.concatenate(then))
    total = csr_matrix((np.concatenate(worth), pairs), (items, items))  # those of one pair add up
    count = np.maximum(np.bincount(item, minlength=items), 1)
    return csr_matrix(total.multiply(1 / np.sqrt(count)[:, None]), dtype=np.float32)
