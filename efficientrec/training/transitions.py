"""Shortlists of anchors: what tends to follow each item.

Counts of i before j among each user's interactions in time order, at most `window` apart, each divided by the root of
the distance; j before i counts `backward` as much, since people who meet two items together meet them in either order.
Then divided by √(count of i), so that neither rare nor frequent anchors shout (sequential rules; see docs on anchors).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from efficientrec.shortlists import Shortlists
from efficientrec.training.data import TrainingData


def shortlists(data: TrainingData, window: int, size: int, backward: float) -> Shortlists:
    """The `size` items that most tend to follow each item of the vocabulary. How they were liked does not count: where
    a user goes next tells as much when it disappoints."""
    items = len(data.items)
    order = np.argsort(data.user, kind="stable")
    user, item = data.user[order], data.item[order]
    total = csr_matrix((items, items), dtype=np.float64)
    for distance in range(1, window + 1):
        same = (user[:-distance] == user[distance:]) & (item[:-distance] != item[distance:])
        first, then = item[:-distance][same], item[distance:][same]
        steps = csr_matrix((np.full(len(first), distance**-0.5), (first, then)), (items, items))
        total = total + steps + backward * steps.T
    total.eliminate_zeros()
    count = np.bincount(item, minlength=items)
    total = csr_matrix(total.multiply(1 / np.sqrt(np.maximum(count, 1))[:, None]))
    return best(total, size)


def best(scores: csr_matrix, size: int) -> Shortlists:
    """The `size` greatest entries of each row, ties to the lower item."""
    owner = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    order = np.lexsort((scores.indices, -scores.data, owner))
    rank = np.arange(len(owner)) - scores.indptr[owner]
    kept = rank < size
    items = np.full((scores.shape[0], size), -1, np.int32)
    credit = np.zeros((scores.shape[0], size), np.float32)
    items[owner[kept], rank[kept]] = scores.indices[order[kept]]
    credit[owner[kept], rank[kept]] = scores.data[order[kept]]
    return Shortlists(items, credit)
