"""A model of a given size and of no meaning, for benchmarks: its arithmetic costs what a trained model's does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from efficientrec.clusters import Clusters
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.interactions import key_of
from efficientrec.model import Blend, Model
from efficientrec.shortlists import Shortlists, nothing
from efficientrec.vocabulary import Vocabulary

ITEMS = 4000
CLUSTERS = 256
SHORTLIST = 200
VOTES = 8
DIM = 128
HIDDEN = 64
TASTES = 8
TASTE_ITEMS = 300
"""Clusters of one taste are near each other and choose among as many items, so that the eight who vote for a user name
some 300 candidates between them, as those of a model trained on ML-1M do."""


def synthetic_model(version: str = "synthetic", *, items: int = ITEMS, seed: int = 0) -> Model:
    """256 clusters x 200 items, 8 of which vote; candidates are ranked in 128 dimensions. No anchors vote."""
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        return drawn

    pools = np.array([rng.permutation(items)[:TASTE_ITEMS] for _ in range(TASTES)], np.int32)
    taste = np.arange(CLUSTERS) % TASTES
    listed = np.array([rng.permutation(pools[each])[:SHORTLIST] for each in taste], np.int32)
    cluster_weights = np.ascontiguousarray(numbers(HIDDEN, TASTES)[:, taste] + 0.01 * numbers(HIDDEN, CLUSTERS))
    scores = -np.sort(-rng.random((CLUSTERS, SHORTLIST)).astype(np.float32), axis=1)
    vocabulary = Vocabulary([f"item-{number}" for number in range(items)])
    encoder = EfficientRecEncoder(
        key=key_of(version),
        items=vocabulary,
        item_vectors=numbers(items, DIM),
        half_life_seconds=90 * 86_400.0,
        dislike=0.3,
        trait_keys=np.zeros(0, np.uint64),
        trait_vectors=np.zeros((0, 8), np.float32),
        hidden_weights=numbers(2 * DIM + 2 + 8, HIDDEN),
        hidden_bias=np.zeros(HIDDEN, np.float32),
        vector_weights=numbers(HIDDEN, HIDDEN),
        vector_bias=np.zeros(HIDDEN, np.float32),
    )
    return Model(
        version=version,
        items=vocabulary,
        encoder=encoder,
        clusters=Clusters(cluster_weights, np.zeros(CLUSTERS, np.float32), VOTES),
        cluster_shortlists=Shortlists(listed, scores),
        anchor_shortlists=Shortlists(np.full((items, 1), -1, np.int32), np.zeros((items, 1), np.float32)),
        neighbour_shortlists=nothing(items),
        popular=np.arange(200, dtype=np.int32),
        ranking_vectors=numbers(items, DIM),
        ranking_places=np.zeros((items, 0), np.int32),
        item_bias=np.zeros(items, np.float32),
        blend=Blend(cluster_weight=1.0, anchor_weight=0.0, anchors=0, anchor_decay=1.0),
    )
