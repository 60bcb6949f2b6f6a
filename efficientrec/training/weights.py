"""Interactions as a sparse matrix of users and items."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from efficientrec.training.data import TrainingData


def signed(data: TrainingData, half_life_seconds: float | None) -> csr_matrix:
    """(users, items) the weights that users gave, the last one where an item was met twice; decayed to each user's last
    interaction where a half-life is given."""
    amount = data.weight.astype(np.float64)
    if half_life_seconds is not None:
        last = np.zeros(data.users, np.int64)
        np.maximum.at(last, data.user, data.at)
        amount = amount * 2.0 ** ((data.at - last[data.user]) / (1000 * half_life_seconds))
    pair = data.user.astype(np.int64) * len(data.items) + data.item
    _, latest = np.unique(pair[::-1], return_index=True)
    latest = len(pair) - 1 - latest
    shape = (data.users, len(data.items))
    return csr_matrix((amount[latest].astype(np.float32), (data.user[latest], data.item[latest])), shape)


def positive(weights: csr_matrix) -> csr_matrix:
    """The likes alone."""
    liked = csr_matrix((np.maximum(weights.data, 0), weights.indices, weights.indptr), weights.shape, copy=True)
    liked.eliminate_zeros()
    return liked
