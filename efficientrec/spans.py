"""Many short ranges of numbers, laid one after another without a loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def steps(count: NDArray[np.integer]) -> NDArray[np.int64]:
    """0, 1, … count - 1 for each count.

    >>> steps(np.array([3, 0, 2])).tolist()
    [0, 1, 2, 0, 1]
    """
    place: NDArray[np.int64] = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return place


def spread(first: NDArray[np.integer], count: NDArray[np.integer]) -> NDArray[np.int64]:
    """`count` numbers from each `first` on.

    >>> spread(np.array([7, 5, 1]), np.array([3, 0, 2])).tolist()
    [7, 8, 9, 1, 2]
    """
    return np.repeat(first, count) + steps(count)
