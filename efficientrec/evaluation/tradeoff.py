"""What accuracy costs: one trained model, served with more or fewer candidates. Nothing is learned again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from efficientrec.clusters import Assignment, Clusters, CoClusters
from efficientrec.model import Model
from efficientrec.shortlists import Shortlists

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Served:
    """A model as it would serve with one number changed."""

    knob: str
    value: float
    model: Model


def variants(model: Model) -> Iterator[Served]:
    """The model with one of its numbers changed at a time, each ascending. Clusters kept go to twice their number, and
    neighbours to all that a shortlist holds; nothing else goes above what the model has."""
    kept = model.clusters.kept
    for count in sorted({kept, *COUNTS}):
        if count <= min(2 * kept, len(model.clusters)):
            yield Served("clusters kept", count, replace(model, clusters=_keeping(model, count)))
    for share in SHARES:
        shorter = replace(
            model,
            cluster_shortlists=_first(model.cluster_shortlists, share),
            anchor_shortlists=_first(model.anchor_shortlists, share),
            neighbour_shortlists=_first(model.neighbour_shortlists, share),
        )
        yield Served("share of each shortlist", share, shorter)
    blend = model.blend
    most = max(blend.anchors, blend.neighbours)
    for count in sorted({0, most, *COUNTS}):
        if count <= most:
            fewer = replace(blend, anchors=min(count, blend.anchors), neighbours=min(count, blend.neighbours))
            yield Served("last items that vote", count, replace(model, blend=fewer))
    if blend.neighbour_weight > 0:
        longest = model.neighbour_shortlists.items.shape[1]
        for count in sorted({0, min(blend.neighbour_nominees, longest), *COUNTS}):
            if count <= longest:
                others = replace(blend, neighbour_nominees=count)
                yield Served("neighbours nominated by each", count, replace(model, blend=others))


def _keeping(model: Model, count: int) -> Assignment:
    clusters = model.clusters
    assert isinstance(clusters, Clusters | CoClusters), type(clusters)
    return replace(clusters, kept=count)


def _first(lists: Shortlists, share: float) -> Shortlists:
    size = round(share * lists.items.shape[1])
    return Shortlists(lists.items[:, :size].copy(), lists.scores[:, :size].copy())
