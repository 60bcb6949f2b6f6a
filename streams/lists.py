"""From recommendations to records: the lists that go out, with their reasons and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientrec.model import Model
from efficientrec.recommend import Recommendations
from streams.records import (
    SCHEMA_VERSION,
    ClusterWeight,
    RankedItem,
    Reason,
    RecommendationList,
    Trigger,
    encode,
    rec_id_of,
)

POPULAR = Reason("popular", 1.0)


class Cause(NamedTuple):
    """Why a list is made: the newest event of its user."""

    user: str
    trigger: Trigger
    arrived_ms: int
    """When the broker got it."""


def personal_lists(
    model: Model, recommendations: Recommendations, causes: Sequence[Cause], generated_at: str, reason: str
) -> list[bytes]:
    """The records of a batch of users, in its order.

    Made user by user from flat columns: with every item's reasons of a whole batch alive at once, the garbage collector
    took four fifths of the time.
    """
    ids = model.items.ids
    part = recommendations.part
    whole = part.sum(axis=2, keepdims=True)
    shares = part / np.where(whole > 0, whole, 1)
    columns = (
        recommendations.items.tolist(),
        _rounded(recommendations.scores, 6),
        recommendations.strongest[:, :, 0].tolist(),
        recommendations.strongest[:, :, 1].tolist(),
        _rounded(shares[:, :, 0], 4),
        _rounded(shares[:, :, 1], 4),
    )
    clusters, weights = recommendations.clusters.tolist(), _rounded(recommendations.memberships, 4)
    records = []
    for cause, owners, owned, *listed in zip(causes, clusters, weights, *columns, strict=True):
        items = [
            RankedItem(ids[item], rank, score, _reasons(ids, cluster, anchor, cluster_share, anchor_share))
            for rank, (item, score, cluster, anchor, cluster_share, anchor_share) in enumerate(
                zip(*listed, strict=True), 1
            )
            if item >= 0
        ]
        memberships = list(map(ClusterWeight, owners, owned))
        records.append(_record(cause, model.version, generated_at, reason, memberships, items))
    return records


def popular_lists(
    lists: Sequence[Sequence[tuple[str, float]]], causes: Sequence[Cause], generated_at: str, reason: str
) -> list[bytes]:
    """The records before the first model: what is popular and new to each user."""
    return [
        _record(
            cause,
            None,
            generated_at,
            reason,
            [],
            [RankedItem(item, rank, score, [POPULAR]) for rank, (item, score) in enumerate(listed, 1)],
        )
        for listed, cause in zip(lists, causes, strict=True)
    ]


def _reasons(ids: Sequence[str], cluster: int, anchor: int, cluster_share: float, anchor_share: float) -> list[Reason]:
    """Why an item: its strongest cluster and its strongest anchor, -1 for none; shares add to 1."""
    if anchor < 0:
        return [Reason("cluster", cluster_share, cluster=cluster)] if cluster >= 0 else [POPULAR]
    by_anchor = Reason("anchor", anchor_share, item_id=ids[anchor])
    if cluster < 0:
        return [by_anchor]
    by_cluster = Reason("cluster", cluster_share, cluster=cluster)
    return [by_cluster, by_anchor] if cluster_share >= anchor_share else [by_anchor, by_cluster]


def _rounded(values: NDArray[np.floating], digits: int) -> list[list[float]]:
    """As few digits on the wire as are asked for: rounded as float64, since a float32 has no short decimals."""
    rounded: list[list[float]] = np.round(values.astype(np.float64), digits).tolist()
    return rounded


def _record(
    cause: Cause,
    version: str | None,
    generated_at: str,
    reason: str,
    clusters: list[ClusterWeight],
    items: list[RankedItem],
) -> bytes:
    trigger = cause.trigger
    return encode(
        RecommendationList(
            schema_version=SCHEMA_VERSION,
            rec_id=rec_id_of(trigger.topic, trigger.partition, trigger.offset, cause.user, version),
            user_id=cause.user,
            model_version=version,
            generated_at=generated_at,
            trigger=trigger,
            reason=reason,
            clusters=clusters,
            items=items,
        )
    )
