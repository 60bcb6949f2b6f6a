"""Rows as a worker would have them: interactions folded by the same code that serves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.interactions import Interactions, keys_of
from efficientrec.model import Model
from efficientrec.profile import Rows
from efficientrec.spans import spread
from efficientrec.training.data import TrainingData

HISTORY_MAX = profile.SEEN_SIZE
"""Interactions before a prediction that are folded: what is older neither shows in the sums nor is remembered as
seen."""


def folded(
    model: Model,
    data: TrainingData,
    user: NDArray[np.int32],
    event: NDArray[np.int64],
    users: int,
    traits_of: NDArray[np.int32],
) -> Rows:
    """Rows of `users` users, each after his events. user (n,), event (n,): which of data's events belong to whom, each
    user's in time order. traits_of (users,): whose demographics each has."""
    run = Interactions(
        users=[""] * users,
        user=user,
        item=keys_of(data.items)[data.item[event]],
        weight=data.weight[event],
        at=data.at[event],
        arrived=np.zeros(len(user), np.int64),
        offset=np.arange(len(user), dtype=np.int64),
        event=np.zeros(len(user), np.uint64),
        excludes=np.ones(len(user), np.bool_),
    )
    rows = profile.empty(users, model.encoder.width)
    if any(data.traits):
        keys = [keys_of(traits) for traits in data.traits]
        rows = profile.with_traits(rows, [keys[owner] for owner in traits_of.tolist()], np.zeros(users, np.int64))
    return profile.fold(rows, run, model.encoder).rows


def all_of(model: Model, data: TrainingData) -> Rows:
    """The row of each user (data.users,) after everything he did."""
    everyone = np.arange(data.users, dtype=np.int32)
    return folded(model, data, data.user, np.arange(len(data), dtype=np.int64), data.users, everyone)


def before_each(
    model: Model, data: TrainingData, targets: NDArray[np.int64], most: int | NDArray[np.int64] = HISTORY_MAX
) -> Rows:
    """For each target event (n,) the row that its user had just before it. most: as in `met`."""
    example, event = met(data, targets, most)
    return folded(model, data, example, event, len(targets), data.user[targets])


def met(
    data: TrainingData, targets: NDArray[np.int64], most: int | NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """For each target event (n,) the last `most` events of the same user before it, in time order: which target, which
    event, both (sum of lengths,). most: for all of them, or (n,) for each."""
    order = np.argsort(data.user, kind="stable")  # by user, each one's events in time order
    place = np.empty(len(data), np.int64)
    place[order] = np.arange(len(data))
    count = np.bincount(data.user, minlength=data.users)
    start = (np.cumsum(count) - count)[data.user[targets]]
    length = np.minimum(place[targets] - start, most)
    event = order[spread(place[targets] - length, length)]
    return np.repeat(np.arange(len(targets), dtype=np.int32), length), event
