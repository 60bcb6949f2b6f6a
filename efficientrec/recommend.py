"""From rows to ranked lists: why a user gets these items.

1. *Read.* The encoder turns the row into a vector (for clusters) and a taste (for ranking).
2. *Assign.* The strongest c clusters of the user, with memberships p.
3. *Vote.* Each cluster's shortlist votes p · s(c, i), or min(p, s(c, i)) where the model is local (ELFM). Each anchor,
   one of the last few items that the user did not dislike, votes with what tends to follow it and with what resembles
   it, the older the fainter. Votes for the same item add up.
4. *Leave out.* What the user has met, and what is hidden or expired. If few candidates are left, what is popular joins.
5. *Rank.* Every candidate, a few hundred, is scored exactly: taste · h_i (or Σ_c min(taste_c, h_ic)) + bias_i + its
   votes. The best N go out, each with the cluster and the anchor that spoke loudest for it.

Knows models and rows. Knows nothing of Kafka or time. Its cost depends on neither the number of users nor of items.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels
from efficientrec.model import Model
from efficientrec.profile import Rows

_own = threading.local()


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The lists of a batch of users. Items are places in the model's vocabulary; -1 fills a list that is shorter."""

    items: NDArray[np.int32]
    """(users, N) best first."""
    scores: NDArray[np.float32]
    """(users, N)"""
    clusters: NDArray[np.int32]
    """(users, c) strongest first."""
    memberships: NDArray[np.float32]
    """(users, c) in [0, 1]."""
    strongest: NDArray[np.int32]
    """(users, N, 2) cluster and anchor (an item) whose vote for the item was the greatest; -1 for none."""
    part: NDArray[np.float32]
    """(users, N, 2) the votes of those two."""
    ranked: NDArray[np.int32]
    """(users,) how many items were left to rank."""


def recommend(
    model: Model, rows: Rows, size: int, blocked: NDArray[np.bool_] | None = None, exact: bool = True
) -> Recommendations:
    """The best `size` items for each row, built with the model's encoder (`profile.rebuilt`).

    blocked (items,): what nobody may get. exact: False ranks by votes alone.
    """
    if size < 1:
        raise AssertionError(f"a list of {size} items was asked for; expected at least 1")
    other = (rows.model != np.uint64(model.encoder.key)) & (rows.model != 0)  # 0: of this user nothing is known
    if rows.state.shape[1] != model.encoder.width or other.any():
        raise AssertionError(
            f"rows of the models {np.unique(rows.model)}, {rows.state.shape[1]} wide; "
            f"expected rows that {model.version} ({model.encoder.key}, {model.encoder.width} wide) has built"
        )
    if blocked is not None and blocked.shape != (len(model.items),):
        raise AssertionError(f"blocked has shape {blocked.shape}; expected one for each of {len(model.items)} items")
    users = len(rows)
    vector, taste = model.encoder.read(rows)
    clusters, memberships = model.clusters.assign(vector)
    result = Recommendations(
        items=np.empty((users, size), np.int32),
        scores=np.empty((users, size), np.float32),
        clusters=clusters,
        memberships=memberships,
        strongest=np.empty((users, size, 2), np.int32),
        part=np.empty((users, size, 2), np.float32),
        ranked=np.empty(users, np.int32),
    )
    blend = model.blend if exact or model.votes is None else model.votes
    kernels.vote_and_rank(
        clusters,
        memberships,
        np.float32(blend.cluster_weight),
        _fading(blend.anchor_weight, blend.anchor_decay, blend.anchors),
        _fading(blend.neighbour_weight, blend.neighbour_decay, blend.neighbours),
        blend.neighbour_nominees,
        model.cluster_shortlists.items,
        model.cluster_shortlists.scores,
        model.anchor_shortlists.items,
        model.anchor_shortlists.scores,
        model.neighbour_shortlists.items,
        model.neighbour_shortlists.scores,
        model.popular,
        rows.kept,
        taste,
        model.ranking_places if model.ranking_places.shape[1] else None,
        model.ranking_vectors,
        model.item_bias,
        np.float32(blend.popularity),
        np.float32(blend.newcomer_popularity),
        blend.newcomer_events,
        model.items.keys,
        model.items.table,
        model.items.place,
        np.zeros(len(model.items), np.bool_) if blocked is None else blocked,
        exact,
        _room_for(len(model.items)),
        result.items,
        result.scores,
        result.strongest,
        result.part,
        result.ranked,
    )
    return result


def _room_for(items: int) -> NDArray[np.int32]:
    """(items,) or longer, -1 everywhere; each thread has its own, which the kernel leaves as it found it."""
    room: NDArray[np.int32] | None = getattr(_own, "room", None)
    if room is None or len(room) < items:
        room = _own.room = np.full(items, -1, np.int32)
    return room


@cache
def _fading(weight: float, decay: float, count: int) -> NDArray[np.float32]:
    """(count,) the weight of the newest interaction's vote, of the one before it, …"""
    return np.float32(decay) ** np.arange(count, dtype=np.float32) * np.float32(weight)
