"""Sets of (row, item), kept sparse: what each asked user met, and what he is hoped to be shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec.spans import spread


@dataclass(frozen=True, slots=True)
class Pairs:
    """Distinct pairs of a row and an item.

    >>> pairs = Pairs.of(np.array([0, 0, 1]), np.array([2, 2, 1]), rows=2, items=3)
    >>> pairs.has(np.array([[2, 1], [1, -1]])).tolist()
    [[True, False], [True, False]]
    """

    rows: int
    items: int
    key: NDArray[np.int64]
    """(pairs,) row · items + item, ascending."""

    @classmethod
    def of(cls, row: NDArray[np.integer], item: NDArray[np.integer], rows: int, items: int) -> Pairs:
        """The pairs (n,) that stand in the two columns, each once."""
        return cls(rows, items, np.unique(row.astype(np.int64) * items + item))

    def __len__(self) -> int:
        return len(self.key)

    @property
    def row(self) -> NDArray[np.int64]:
        return self.key // self.items

    @property
    def item(self) -> NDArray[np.int64]:
        return self.key % self.items

    def counts(self) -> NDArray[np.int64]:
        """(rows,) how many items each row has."""
        bounds = np.searchsorted(self.key, np.arange(self.rows + 1, dtype=np.int64) * self.items)
        return np.diff(bounds)

    def has(self, items: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each place of items (rows, N) names an item of its row; -1 names none."""
        if not len(self.key):
            return np.zeros(items.shape, np.bool_)
        asked = np.arange(self.rows, dtype=np.int64)[:, None] * self.items + items
        place = np.minimum(np.searchsorted(self.key, asked), len(self.key) - 1)
        found: NDArray[np.bool_] = (self.key[place] == asked) & (items >= 0) & (items < self.items)
        return found

    def take(self, rows: NDArray[np.integer]) -> Pairs:
        """The pairs of some of the rows (ascending), which are numbered anew."""
        first = np.searchsorted(self.key, rows.astype(np.int64) * self.items)
        count = np.searchsorted(self.key, (rows.astype(np.int64) + 1) * self.items) - first
        item = self.key[spread(first, count)] % self.items
        return Pairs(len(rows), self.items, np.repeat(np.arange(len(rows)), count) * self.items + item)

    def shared(self, other: Pairs) -> Pairs:
        """The pairs that both have."""
        return Pairs(self.rows, self.items, np.intersect1d(self.key, other.key, assume_unique=True))
