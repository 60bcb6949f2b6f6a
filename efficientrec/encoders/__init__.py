"""What an encoder is: how interactions add up to a state, and what a state says about its user.

Every encoder keeps its sums in `Rows.state` and is one part of a model version; the conformance suite in
tests/test_encoders.py holds for all of them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efficientrec.profile import Rows


class Encoder(Protocol):
    """history → additive state → vectors."""

    @property
    def key(self) -> int:
        """Key of the model version that the encoder belongs to: states of different keys cannot be mixed."""

    @property
    def width(self) -> int:
        """Floats of state per user; at most profile.STATE_MAX."""

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
