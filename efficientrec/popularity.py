"""What everybody likes now: decayed counts of a bounded number of items, for the time before the first model.

Knows weights and time. Items are known by their ids, because there is no vocabulary yet.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from efficientrec.interactions import keys_of
from efficientrec.profile import Rows

ITEMS_MAX = 400  # enough for a long list after the seen items have left; the row that keeps them stays near 10 KiB


class _Stored(msgspec.Struct, array_like=True):
    at: int
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Popularity:
    """Σ y · 2^(-age / half-life) of the likes of each item, the least popular ones forgotten."""

    half_life_seconds: float
    at: int = 0
    """Milliseconds; the scores are decayed to it."""
    scores: dict[str, float] = field(default_factory=dict)

    def fold(self, items: Sequence[str], weights: NDArray[np.float32], at: NDArray[np.int64]) -> Popularity:
        """The popularity after these interactions (events,). Dislikes do not count: they concern one user's taste."""
        if not len(items):
            return self
        now = max(self.at, int(at.max()))
        fade = self._fade(now - self.at)
        scores = {item: score * fade for item, score in self.scores.items()}
        half_life_ms = 1000 * self.half_life_seconds
        amounts = np.maximum(weights, 0) * np.exp2((at - now) / half_life_ms)
        for item, amount in zip(items, amounts.tolist(), strict=True):
            if amount:
                scores[item] = scores.get(item, 0.0) + amount
        if len(scores) > ITEMS_MAX:
            scores = dict(heapq.nlargest(ITEMS_MAX, scores.items(), key=lambda entry: (entry[1], entry[0])))
        return Popularity(self.half_life_seconds, now, scores)

    @classmethod
    def together(cls, parts: Iterable[Popularity]) -> Popularity:
        """What is popular in several partitions, at least one, as of the latest of them."""
        parts = list(parts)
        now = max(part.at for part in parts)
        scores: dict[str, float] = {}
        for part in parts:
            fade = part._fade(now - part.at)
            for item, score in part.scores.items():
                scores[item] = scores.get(item, 0.0) + fade * score
        return cls(parts[0].half_life_seconds, now, scores)

    def _fade(self, age_ms: int) -> float:
        return float(2.0 ** (-age_ms / (1000 * self.half_life_seconds)))

    def recommend(self, rows: Rows, size: int, blocked: Callable[[str], bool]) -> list[list[tuple[str, float]]]:
        """For each row the most popular items (id, score) that its user has not met and that are not blocked."""
        ranked = sorted(self.scores.items(), key=lambda entry: (-entry[1], entry[0]))
        ranked = [entry for entry in ranked if not blocked(entry[0])]
        fingerprints = keys_of([item for item, _ in ranked]).astype(np.uint16)
        lists = []
        for row in range(len(rows)):
            met = np.isin(fingerprints, rows.seen[row, : rows.seen_count[row]])
            lists.append([ranked[place] for place in np.flatnonzero(~met)[:size]])
        return lists

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(_Stored(self.at, self.scores))

    @classmethod
    def from_bytes(cls, stored: bytes | None, half_life_seconds: float) -> Popularity:
        """The way back; None for a partition in which nothing was counted yet."""
        if stored is None:
            return cls(half_life_seconds)
        read = msgspec.msgpack.decode(stored, type=_Stored)
        return cls(half_life_seconds, read.at, read.scores)
