"""Learning local factor models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def strongest_places(affinities: Floats, most: int) -> tuple[NDArray[np.int32], Floats]:
    """Places and values (items, K) of the strongest positive affinities (items, N) of each item, strongest first, -1
    and 0 where there are fewer."""
    order = np.argsort(-affinities, axis=1, kind="stable")[:, :most]
    values = np.take_along_axis(affinities, order, axis=1)
    return np.where(values > 0, order, -1).astype(np.int32), np.maximum(values, 0).astype(np.float32)
