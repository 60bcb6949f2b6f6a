"""The items that a model knows: their ids, keys and places.

An item's place (index) means something only within one model version; its key (`key_of`) means the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels
from efficientrec.errors import ArtifactMismatch
from efficientrec.interactions import keys_of

Written: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Texts one after the other, and where each begins; one more for the end."""


class Vocabulary:
    """Item ids in the order of the model's arrays, found by key in constant time.

    >>> items = Vocabulary(["a", "b"])
    >>> items.find(keys_of(["b", "never seen"])).tolist()
    [1, -1]
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """Raises ArtifactMismatch if two ids share a key (or are the same)."""
        self.ids = list(ids)
        self.keys = keys_of(self.ids)
        """(items,) uint64"""
        size = 16
        while size < 2 * len(self.ids):  # at most half full: a search ends after a step or two
            size *= 2
        self.table = np.zeros(size, np.uint64)
        self.place = np.zeros(size, np.int32)
        """Of each key in `table`, its index; both as `kernels.lookup` reads them."""
        self._written: dict[Callable[[Sequence[str]], Written], Written] = {}
        twice = kernels.hash_table(self.keys, self.table, self.place)
        if twice >= 0:
            raise ArtifactMismatch(f"item {self.ids[twice]!r} shares its key with another item of the vocabulary")

    def written(self, by: Callable[[Sequence[str]], Written]) -> Written:
        """The ids as lists on their way out name them, by `id_members` of the kernel that writes them. Made once."""
        if by not in self._written:
            self._written[by] = by(self.ids)
        return self._written[by]

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The index of each key, in the shape of keys; -1 for an item that the model does not know."""
        found: NDArray[np.int32] = kernels.lookup(keys.reshape(-1), self.table, self.place)
        return found.reshape(keys.shape)
