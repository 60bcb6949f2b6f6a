"""What an encoder is: how interactions add up to a state, and what a state says about its user.

Every encoder keeps its sums in `Rows.state` and is one part of a model version; the conformance suite in
tests/test_encoders.py holds for all of them. `registry.py` knows them by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from efficientrec.profile import Rows
from efficientrec.vocabulary import Vocabulary

Arrays = Mapping[str, tuple[int, type[np.generic]]]
"""Names of arrays, with their dimensions and types."""
Numbers = Mapping[str, type[int] | type[float]]
"""Names of numbers, with their types."""


class Expect(Protocol):
    """Raises ArtifactMismatch unless something holds; told what was found, and what was wanted."""

    def __call__(self, holds: bool, found: str, wanted: str) -> None: ...


class Encoder(Protocol):
    """history → additive state → vectors."""

    NAME: ClassVar[str]
    """As settings and manifests call it."""
    ARRAYS: ClassVar[Arrays]
    """The attributes that were learned. None is called `cluster_*` or `ranking_*`."""
    NUMBERS: ClassVar[Numbers]
    """The other attributes that it depends on, beside `key` and `items`."""

    @property
    def key(self) -> int:
        """Key of the model version that the encoder belongs to: states of different keys cannot be mixed."""

    @property
    def items(self) -> Vocabulary:
        """The items that it knows."""

    @property
    def width(self) -> int:
        """Floats of state per user; at most profile.STATE_MAX, and 0 where the ring of interactions is enough."""

    def accumulate(
        self,
        state: NDArray[np.float32],
        at: NDArray[np.int64],
        user: NDArray[np.int32],
        item: NDArray[np.uint64],
        weight: NDArray[np.float32],
        event_at: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """The states (users, width) after these events, decayed to the latest of `at` and their times.

        state (users, width), decayed to at (users,) milliseconds. user, item, weight, event_at (events,), in order:
        index of the row, key of the item (unknown items only pass time), signed weight, milliseconds since the epoch,
        not negative. The arguments stay as they were.
        """

    def taste(self, rows: Rows) -> NDArray[np.float32]:
        """What ranks items: (users, dim), to be multiplied with the model's ranking vectors."""

    def vector(self, rows: Rows) -> NDArray[np.float32]:
        """What assigns clusters: (users, hidden)."""

    def read(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`vector` and `taste`, sharing what both are made of."""

    def check(self, expect: Expect) -> None:
        """Expects that the parts fit each other. Types, finite numbers and C order have been seen to."""

    def shapes(self) -> tuple[int, int]:
        """Columns of `vector` and of `taste`."""


class EncoderKind(Protocol):
    """The class of an encoder."""

    NAME: ClassVar[str]
    ARRAYS: ClassVar[Arrays]
    NUMBERS: ClassVar[Numbers]

    def __call__(self, *args: Any, **parts: Any) -> Encoder:
        """An encoder. parts: `key`, `items`, the arrays and the numbers, by name."""
