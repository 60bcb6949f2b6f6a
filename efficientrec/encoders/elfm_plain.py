"""A user's state as encoders/elfm.py keeps it, recomputed for audits: one interaction after another, Python numbers,
nothing of the code that serves."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from efficientrec.encoders.elfm import ElfmEncoder
from efficientrec.interactions import key_of
from efficientrec.vocabulary import Vocabulary


class PlainElfm:
    """M, G and n of a user who has done nothing, and the time to which n is decayed."""

    def __init__(self, encoder: ElfmEncoder, at: int) -> None:
        self.encoder = encoder
        self.place = _places(encoder.items)
        self.rate = math.log(2) / (1000 * encoder.half_life_seconds)
        self.at = at
        self.clusters = encoder.heads.shape[1]
        self.state: NDArray[np.float32] = np.zeros(2 * self.clusters + 1, np.float32)

    def add(self, item: int, weight: np.float32, at: int) -> None:
        """Takes in one interaction: key, signed weight, milliseconds."""
        amount = float(weight)
        if at > self.at:
            self.state[-1] *= np.float32(math.exp(-self.rate * (at - self.at)))
            self.at = at
        else:
            amount *= math.exp(-self.rate * (self.at - at))
        place = self.place.get(item)
        if place is None or not np.float32(amount) > 0:
            return
        vector = self.encoder.item_vectors[place]
        attention = np.zeros(self.clusters, np.float32)
        reading = np.zeros(self.clusters, np.float32)
        for column, value in enumerate(vector):
            attention += value * self.encoder.heads[column]
            reading += value * self.encoder.readers[column]
        before = float(self.state[-1])
        new, old = amount / (before + amount), before / (before + amount)
        for cluster in range(self.clusters):
            x, y = float(attention[cluster]), float(reading[cluster])
            mean, read = float(self.state[cluster]), float(self.state[self.clusters + cluster])
            if before == 0:
                mean, read = x, y
            else:
                own = new * math.exp(min(x - mean, 0.0))
                others = old * math.exp(min(mean - x, 0.0))
                mean = max(x, mean) + math.log(others + own)
                read += (y - read) * (own / (others + own))
            self.state[cluster] = mean
            self.state[self.clusters + cluster] = read
        self.state[-1] = before + amount


@lru_cache(maxsize=4)
def _places(items: Vocabulary) -> dict[int, int]:
    return {key_of(text): place for place, text in enumerate(items.ids)}
