"""The sequence encoder of ELCRec (arXiv 2401.05975): a causal transformer reads a user's last items, in their order.

Nothing is added up: the row's ring of interactions is the state, so it has no floats of its own, undo and late events
need no thought, and a new version reads old rows as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels, sequence_kernel
from efficientrec.encoders import Arrays, Expect, Numbers
from efficientrec.profile import RING_SIZE, Rows
from efficientrec.vocabulary import Vocabulary

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ElcrecEncoder:
    """Arrays of layers have one entry for each; see sequence_kernel.directions."""

    NAME: ClassVar[str] = "elcrec"
    ARRAYS: ClassVar[Arrays] = {
        "item_vectors": (2, np.float32),
        "nearness": (3, np.float32),
        "norms": (4, np.float32),
        "attention": (4, np.float32),
        "attention_bias": (3, np.float32),
        "up": (3, np.float32),
        "up_bias": (2, np.float32),
        "down": (3, np.float32),
        "down_bias": (2, np.float32),
    }
    NUMBERS: ClassVar[Numbers] = {"scale": float}

    key: int
    items: Vocabulary
    item_vectors: Floats
    """(items, d)"""
    nearness: Floats
    """(layers, heads, T): bias of attention by distance. T is how many items are read."""
    norms: Floats
    """(layers, 2, 2, d): scale and shift before attention, and before the dense layers."""
    attention: Floats
    """(layers, 4, d, d): queries, keys, values, and what is made of what was read."""
    attention_bias: Floats
    """(layers, 4, d)"""
    up: Floats
    """(layers, d, wide)"""
    up_bias: Floats
    down: Floats
    """(layers, wide, d)"""
    down_bias: Floats
    scale: float
    """Of scores, against the votes that are added to them."""
    first: Floats = field(init=False)
    """(items, 3, d): queries, keys and values of the first layer, which depend on the item alone."""

    def __post_init__(self) -> None:
        first = np.zeros((0, 3, 0), np.float32)
        # What an artifact holds is not checked yet. Where it does not fit, `check` will say so.
        formed = all(getattr(self, name).ndim == dimensions for name, (dimensions, _) in self.ARRAYS.items())
        if formed and all(shape == wanted for _, shape, wanted in self._shapes()):
            normed = sequence_kernel.normed(self.item_vectors, self.norms[0, 0, 0], self.norms[0, 0, 1])
            asked = zip(self.attention[0, :3], self.attention_bias[0, :3], strict=True)
            first = np.stack([kernels.dense(normed, weights, bias, False) for weights, bias in asked], axis=1)
        object.__setattr__(self, "first", first)

    @property
    def width(self) -> int:
        return 0

    def accumulate(
        self,
        state: Floats,
        at: NDArray[np.int64],
        user: NDArray[np.int32],
        item: NDArray[np.uint64],
        weight: Floats,
        event_at: NDArray[np.int64],
    ) -> Floats:
        return state.copy()

    def taste(self, rows: Rows) -> Floats:
        """The direction of the state after the last item, and 1 for the items' biases, times `scale`; zeros for a user
        without items that are known."""
        return self.read(rows)[1]

    def vector(self, rows: Rows) -> Floats:
        """The direction alone: intents are directions."""
        items = np.empty((len(rows), self.nearness.shape[2]), np.int32)
        lengths = np.empty(len(rows), np.int32)
        sequence_kernel.recent(self.items.find(rows.ring_item), rows.ring_weight, rows.events, items, lengths)
        directions: Floats = sequence_kernel.directions(
            items,
            lengths,
            self.item_vectors,
            self.first,
            self.nearness,
            self.norms,
            self.attention,
            self.attention_bias,
            self.up,
            self.up_bias,
            self.down,
            self.down_bias,
        )
        return directions

    def read(self, rows: Rows) -> tuple[Floats, Floats]:
        directions = self.vector(rows)
        known = (directions != 0).any(axis=1)
        taste = np.concatenate((directions, known[:, None]), axis=1, dtype=np.float32) * np.float32(self.scale)
        return directions, taste

    def check(self, expect: Expect) -> None:
        for name, shape, wanted in self._shapes():
            expect(shape == wanted, f"{name} has shape {shape}", str(wanted))
        _, heads, length = self.nearness.shape
        dim = self.item_vectors.shape[1]
        expect(0 < self.scale < math.inf, f"scale is {self.scale}", "a positive number")
        expect(heads > 0 and dim % heads == 0, f"{dim} dimensions have {heads} heads", "a number that divides them")
        expect(0 < length <= RING_SIZE, f"{length} items are read", f"1 to {RING_SIZE}")

    def shapes(self) -> tuple[int, int]:
        dim = self.item_vectors.shape[1]
        return dim, dim + 1

    def _shapes(self) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """Of each array the name, the shape, and the shape that the others ask for."""
        layers, dim, wide = max(len(self.nearness), 1), self.item_vectors.shape[-1], self.up.shape[-1]
        wanted = {
            "item_vectors": (len(self.items), dim),
            "nearness": (layers, *self.nearness.shape[1:]),
            "norms": (layers, 2, 2, dim),
            "attention": (layers, 4, dim, dim),
            "attention_bias": (layers, 4, dim),
            "up": (layers, dim, wide),
            "up_bias": (layers, wide),
            "down": (layers, wide, dim),
            "down_bias": (layers, dim),
        }
        return [(name, getattr(self, name).shape, shape) for name, shape in wanted.items()]
