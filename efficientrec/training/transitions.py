"""Shortlists of anchors: what tends to follow each item.

Directed counts i → j over each user's interactions in time order, at most `window` apart, each divided by the distance;
then by √(count of i), so that neither rare nor frequent anchors shout (sequential rules; see docs on anchors).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from efficientrec.shortlists import Shortlists
from efficientrec.training.data import TrainingData


def shortlists(data: TrainingData, window: int, size: int, floor: float) -> Shortlists:
    """The `size` items that most tend to follow each item of the vocabulary. What follows counts as it was liked, and
    never less than `floor`: where a user goes next tells something even when it disappoints."""
    items = len(data.items)
    order = np.argsort(data.user, kind="stable")
    user, item = data.user[order], data.item[order]
    worth = np.maximum(data.weight[order], floor).astype(np.float64)
    total = csr_matrix((items, items), dtype=np.float64)
    for distance in range(1, window + 1):
        same = (user[:-distance] == user[distance:]) & (item[:-distance] != item[distance:])
        first, then = item[:-distance][same], item[distance:][same]
        total = total + csr_matrix((worth[distance:][same] / distance, (first, then)), (items, items))
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
