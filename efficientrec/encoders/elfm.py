"""The encoder of local factor models (ELFM, RecSys 2021): how strongly a user belongs to each of N co-clusters.

A co-cluster c has a head h_c, which says to which of a user's items it attends, and reads of them how much they are its
own: G_c = Σ_i w_i exp(h_c·e_i/√d) (e_c·W e_i) / Σ_i w_i exp(h_c·e_i/√d), and the membership is max(G_c, 0). The paper
keeps Σ exp(..) W e_i, d numbers for each co-cluster; but only its product with e_c is ever used, so two will do.

Both are kept as means over what the user liked: M_c = log(Σ w_i exp(h_c·e_i/√d) / Σ w_i) beside G_c. Neither can
overflow, and time changes only Σ w_i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from efficientrec import elfm_kernel
from efficientrec.encoders import Arrays, Expect, Numbers
from efficientrec.profile import Rows
from efficientrec.vocabulary import Vocabulary

EVERYBODY = np.float32(1e6)
"""Membership of all in the last column of a taste, so that there an item's own affinity is its bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfmEncoder:
    """state (users, 2N + 1): M, G, and n = Σ w of likes, decayed; n = 0 for a user of whom nothing is known."""

    NAME: ClassVar[str] = "elfm"
    ARRAYS: ClassVar[Arrays] = {
        "item_vectors": (2, np.float32),
        "heads": (2, np.float32),
        "readers": (2, np.float32),
    }
    NUMBERS: ClassVar[Numbers] = {"half_life_seconds": float}

    key: int
    items: Vocabulary
    item_vectors: NDArray[np.float32]
    """(items, d) e_i."""
    heads: NDArray[np.float32]
    """(d, N) h_c / √d."""
    readers: NDArray[np.float32]
    """(d, N) Wᵀ e_c."""
    half_life_seconds: float
    """Age at which an interaction counts half."""

    @property
    def count(self) -> int:
        """N."""
        return int(self.heads.shape[1])

    @property
    def width(self) -> int:
        return 2 * self.count + 1

    def accumulate(
        self,
        state: NDArray[np.float32],
        at: NDArray[np.int64],
        user: NDArray[np.int32],
        item: NDArray[np.uint64],
        weight: NDArray[np.float32],
        event_at: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        after = state.copy()
        rate = math.log(2) / (1000 * self.half_life_seconds)
        places = self.items.find(item)
        elfm_kernel.accumulate(
            user, places, weight, event_at, rate, self.item_vectors, self.heads, self.readers, after, at.copy()
        )
        return after

    def taste(self, rows: Rows) -> NDArray[np.float32]:
        """Memberships, and behind them one in the co-cluster that everybody belongs to."""
        tastes: NDArray[np.float32] = elfm_kernel.memberships(rows.state, self.count + 1)
        tastes[:, self.count] = EVERYBODY
        return tastes

    def vector(self, rows: Rows) -> NDArray[np.float32]:
        """Memberships (users, N)."""
        vectors: NDArray[np.float32] = elfm_kernel.memberships(rows.state, self.count)
        return vectors

    def read(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.vector(rows), self.taste(rows)

    def shapes(self) -> tuple[int, int]:
        return self.count, self.count + 1

    def check(self, expect: Expect) -> None:
        dim = self.item_vectors.shape[1]
        for name, shape, wanted in (
            ("item_vectors", self.item_vectors.shape, (len(self.items), dim)),
            ("heads", self.heads.shape, (dim, self.count)),
            ("readers", self.readers.shape, (dim, self.count)),
        ):
            expect(shape == wanted, f"{name} has shape {shape}", str(wanted))
        half_life = self.half_life_seconds
        expect(0 < half_life < math.inf, f"half_life_seconds is {half_life}", "a positive number")
