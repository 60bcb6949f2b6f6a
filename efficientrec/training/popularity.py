"""What is popular now: every like counts less the older it is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efficientrec.training.data import TrainingData


def decayed(data: TrainingData, half_life_seconds: float) -> NDArray[np.float64]:
    """The decayed sum (items,) of positive weights, as of the last interaction."""
    rate = np.log(2) / (1000 * half_life_seconds)
    amount = np.maximum(data.weight, 0) * np.exp(-rate * (data.at[-1] - data.at))
    return np.bincount(data.item, amount, len(data.items)).astype(np.float64)
