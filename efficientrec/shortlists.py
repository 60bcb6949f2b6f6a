"""Shortlists: the best items of each owner.

An owner is a cluster (lasting taste) or an anchor, that is an item just touched (the moment). Both are rows
(owner, item, score), so one kernel serves both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Shortlists:
    """items, scores (owners, L): best first; items are places in the vocabulary, -1 where a shortlist is shorter."""

    items: NDArray[np.int32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.items)


def nothing(owners: int) -> Shortlists:
    """Empty shortlists."""
    return Shortlists(np.zeros((owners, 0), np.int32), np.zeros((owners, 0), np.float32))


def cut(scores: NDArray[np.float32], size: int) -> Shortlists:
    """The `size` best positive scores of each row of scores (owners, items); ties go to the lower item.

    >>> cut(np.array([[0.1, 0.9, 0.0]], np.float32), 2).items.tolist()
    [[1, 0]]
    """
    size = min(size, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    best = np.take_along_axis(scores, order, axis=1)
    return Shortlists(np.where(best > 0, order, -1).astype(np.int32), np.where(best > 0, best, 0).astype(np.float32))
