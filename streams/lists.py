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
    """The records of a batch of users, in its order."""
    clusters = recommendations.clusters.tolist()
    weights = np.round(recommendations.memberships, 4).tolist()
    listed = recommendations.items.tolist()
    scores = recommendations.scores.tolist()
    reasons = _reasons(model, recommendations.strongest, recommendations.part)
    ids = model.items.ids
    records = []
    for row, cause in enumerate(causes):
        items = [
            RankedItem(ids[item], rank, score, why)
            for rank, (item, score, why) in enumerate(zip(listed[row], scores[row], reasons[row], strict=True), 1)
            if item >= 0
        ]
        memberships = list(map(ClusterWeight, clusters[row], weights[row]))
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


def _reasons(model: Model, strongest: NDArray[np.int32], part: NDArray[np.float32]) -> list[list[list[Reason]]]:
    """The reasons (users, N) of each item: its strongest cluster and its strongest anchor; shares add to 1."""
    ids = model.items.ids
    whole = part.sum(axis=2, keepdims=True)
    shares = np.round(part / np.where(whole > 0, whole, 1), 4).tolist()
    reasons = []
    for row, voters in enumerate(strongest.tolist()):
        listed = []
        for place, (cluster, anchor) in enumerate(voters):
            share = shares[row][place]
            why = [Reason("cluster", share[0], cluster=cluster)] if cluster >= 0 else []
            if anchor >= 0:
                why.append(Reason("anchor", share[1], item_id=ids[anchor]))
            why.sort(key=lambda each: -each.share)
            listed.append(why or [POPULAR])
        reasons.append(listed)
    return reasons


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
