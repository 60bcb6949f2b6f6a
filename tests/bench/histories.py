"""Users who have done much: their interactions, and the rows that these make, as they lie on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from efficientrec import profile
from efficientrec.interactions import Interactions, keys_of
from efficientrec.model import Model
from tests.toy import START

FULL = profile.RING_SIZE
"""Interactions that fill a user's ring."""


def history(model: Model, names: Sequence[str], first: int, events: int = FULL) -> Interactions:
    """So many likes of each user, one user after the other, of items drawn anew for each `first`, the first user's
    place among all."""
    total = len(names) * events
    rng = np.random.default_rng(first)
    return Interactions(
        users=list(names),
        user=np.repeat(np.arange(len(names), dtype=np.int32), events),
        item=model.items.keys[rng.integers(len(model.items), size=total)],
        weight=np.ones(total, np.float32),
        at=np.full(total, START - 1000, np.int64),
        arrived=np.full(total, START - 1000, np.int64),
        offset=np.arange(first * events, first * events + total, dtype=np.int64),
        event=keys_of([f"old-{first * events + number}" for number in range(total)]),
        excludes=np.ones(total, np.bool_),
    )


def packed(model: Model, users: int, first: int = 0, events: int = FULL) -> list[bytes]:
    """The rows of users with such a history."""
    run = history(model, names(first, first + users), first, events)
    nothing = profile.unpack([None] * users, model.encoder.width, model.encoder.key)
    return profile.pack(profile.fold(nothing, run, model.encoder).rows, 0)


def names(first: int, end: int) -> list[str]:
    return [name_of(number) for number in range(first, end)]


def name_of(number: int) -> str:
    """In the order of the numbers: rows written in the order of their keys leave RocksDB nothing to merge."""
    return f"user-{number:08}"
