"""Metrics of ranked lists against what users really chose, over whole arrays.

All take `hits` (users, N): whether the item at each rank is a target, and `targets` (users,): how many targets there
are, in the list or not; and give one value per user. Users without a target must not be passed in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hits_of(items: NDArray[np.int32], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each place of the lists items (users, N) holds a wanted item (users, items); -1 is an empty place."""
    found: NDArray[np.bool_] = np.take_along_axis(wanted, np.maximum(items, 0).astype(np.int64), axis=1)
    return found & (items >= 0)


def recall(hits: NDArray[np.bool_], targets: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Share of the targets among the first k, of as many as fit there.

    >>> recall(np.array([[True, False, True]]), np.array([4]), 2).tolist()
    [0.5]
    """
    return np.asarray(hits[:, :k].sum(axis=1) / np.minimum(targets, k), np.float64)


def ndcg(hits: NDArray[np.bool_], targets: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Discounted gain of the first k, 1 for a list that starts with all the targets.

    >>> ndcg(np.array([[True, False]]), np.array([1]), 2).tolist()
    [1.0]
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate(([0.0], np.cumsum(discount)))
    gained = hits[:, :k] @ discount[: hits[:, :k].shape[1]]
    return np.asarray(gained / best[np.minimum(targets, k)], np.float64)


def hit_rate(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """1 where a target is among the first k, else 0."""
    return np.asarray(hits[:, :k].any(axis=1), np.float64)


def summary(hits: NDArray[np.bool_], targets: NDArray[np.integer]) -> dict[str, float]:
    """The usual metrics, averaged over users, as far as the lists are long enough."""
    size = hits.shape[1]
    scores: dict[str, NDArray[np.float64]] = {}
    for k in (20, 50):
        if size >= k:
            scores[f"recall@{k}"] = recall(hits, targets, k)
    for k in (20, 100):
        if size >= k:
            scores[f"ndcg@{k}"] = ndcg(hits, targets, k)
    if size >= 10:
        scores["hit_rate@10"] = hit_rate(hits, 10)
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in scores.items()}
