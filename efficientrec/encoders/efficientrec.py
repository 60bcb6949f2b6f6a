"""The additive encoder of EfficientRec (arXiv 2401.09693).

Each item has a vector f_i = concat(v_i, e_i): what its features say, and what was learned of it. A user is the sum of
the f_i of what he did, each weighted by how he liked it; likes and dislikes are summed apart, so that dislikes inform
and do not merely cancel. There is no user id, so a new user is as good as an old one after the same events.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels
from efficientrec.encoders import Arrays, Expect, Numbers
from efficientrec.profile import Rows
from efficientrec.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class EfficientRecEncoder:
    """state (users, 2d + 2): A⁺ = Σ y f_i of likes, A⁻ = Σ |y| f_i of dislikes, n⁺ = Σ y, n⁻ = Σ |y|, all decayed."""

    NAME: ClassVar[str] = "efficientrec"
    ARRAYS: ClassVar[Arrays] = {
        "item_vectors": (2, np.float32),
        "trait_keys": (1, np.uint64),
        "trait_vectors": (2, np.float32),
        "hidden_weights": (2, np.float32),
        "hidden_bias": (1, np.float32),
        "vector_weights": (2, np.float32),
        "vector_bias": (1, np.float32),
    }
    NUMBERS: ClassVar[Numbers] = {"half_life_seconds": float, "dislike": float}

    key: int
    items: Vocabulary
    item_vectors: NDArray[np.float32]
    """(items, d) f_i."""
    half_life_seconds: float
    """Age at which an interaction counts half."""
    dislike: float
    """γ: how much a dislike takes from the taste that a like gives."""
    trait_keys: NDArray[np.uint64]
    """(traits,) keys of the demographics that the model knows, ascending."""
    trait_vectors: NDArray[np.float32]
    """(traits, t)"""
    hidden_weights: NDArray[np.float32]
    """(2d + 2 + t, hidden)"""
    hidden_bias: NDArray[np.float32]
    vector_weights: NDArray[np.float32]
    """(hidden, hidden)"""
    vector_bias: NDArray[np.float32]

    @property
    def dim(self) -> int:
        return int(self.item_vectors.shape[1])

    @property
    def width(self) -> int:
        return 2 * self.dim + 2

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
        kernels.accumulate(user, self.items.find(item), weight, event_at, rate, self.item_vectors, after, at.copy())
        return after

    def taste(self, rows: Rows) -> NDArray[np.float32]:
        """(A⁺ - γ A⁻) / √(1 + n⁺ + γ n⁻): grows with what is known, but slower, so that bias and votes still count."""
        tastes: NDArray[np.float32] = kernels.taste(rows.state, np.float32(self.dislike))
        return tastes

    def vector(self, rows: Rows) -> NDArray[np.float32]:
        """Two dense layers over the means of the sums, the weight behind them, and the user's demographics."""
        inputs = kernels.vector_inputs(rows.state, rows.kept, self.trait_keys, self.trait_vectors)
        hidden = kernels.dense(inputs, self.hidden_weights, self.hidden_bias, True)
        vector: NDArray[np.float32] = kernels.dense(hidden, self.vector_weights, self.vector_bias, True)
        return vector

    def read(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.vector(rows), self.taste(rows)

    def check(self, expect: Expect) -> None:
        middle, hidden = len(self.hidden_bias), len(self.vector_bias)
        for name, shape, wanted in (
            ("item_vectors", self.item_vectors.shape, (len(self.items), self.dim)),
            ("trait_vectors", self.trait_vectors.shape[:1], self.trait_keys.shape),
            ("hidden_weights", self.hidden_weights.shape, (self.width + self.trait_vectors.shape[1], middle)),
            ("vector_weights", self.vector_weights.shape, (middle, hidden)),
        ):
            expect(shape == wanted, f"{name} has shape {shape}", str(wanted))
        expect(bool((self.trait_keys[1:] > self.trait_keys[:-1]).all()), "trait_keys are not sorted", "ascending keys")
        half_life = self.half_life_seconds
        expect(0.001 <= half_life < math.inf, f"half_life_seconds is {half_life}", "a millisecond or more")
        expect(0 <= self.dislike < math.inf, f"dislike is {self.dislike}", "a number that is not negative")

    def shapes(self) -> tuple[int, int]:
        return len(self.vector_bias), self.dim
