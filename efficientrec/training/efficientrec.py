"""Learning the additive encoder: ranking in closed form, then the membership head."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.clusters import Clusters
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.interactions import key_of, keys_of
from efficientrec.profile import TRAITS_MAX
from efficientrec.training import memberships, neighbours, ranking
from efficientrec.training.data import TrainingData
from efficientrec.training.descriptions import token_matrix
from efficientrec.training.learned import Learned, Progress
from efficientrec.training.recipe import Recipe
from efficientrec.training.weights import positive, signed
from efficientrec.vocabulary import Vocabulary


def learn(
    data: TrainingData, recipe: Recipe, version: str, progress: Progress, checkpoints: Path | None = None
) -> Learned:
    """An encoder of everything in data, and the clusters that its vectors fall into. It takes seconds, and leaves no
    checkpoints."""
    progress("ranking", 0.0)
    tokens = token_matrix(data.tokens, recipe.token_items_min, recipe.tokens_max)
    weights = neighbours.fit(positive(signed(data, None)), tokens, recipe)
    closed = ranking.fit(weights, tokens, recipe)

    progress("memberships", 0.0)
    trait_keys, traits = _traits(data, recipe.trait_users_min)
    seen = np.bincount(data.user, minlength=data.users)
    clusters = int(np.clip((seen >= 2).sum() // recipe.users_per_cluster, 2 * 2, recipe.clusters))
    head = memberships.fit(
        signed(data, recipe.half_life_seconds) if recipe.dislikes else positive(signed(data, recipe.half_life_seconds)),
        traits,
        closed.item_vectors,
        clusters,
        recipe,
        lambda share: progress("memberships", share),
    )
    encoder = EfficientRecEncoder(
        key=key_of(version),
        items=Vocabulary(data.items),
        item_vectors=closed.item_vectors,
        half_life_seconds=recipe.half_life_seconds,
        dislike=0.0,
        trait_keys=trait_keys,
        trait_vectors=head.trait_vectors,
        hidden_weights=head.hidden_weights,
        hidden_bias=head.hidden_bias,
        vector_weights=head.vector_weights,
        vector_bias=head.vector_bias,
    )
    return Learned(
        encoder=encoder,
        clusters=Clusters(head.cluster_weights, head.cluster_bias, min(recipe.clusters_kept, clusters // 2)),
        ranking_vectors=closed.ranking_vectors,
        ranking_places=np.zeros((len(data.items), 0), np.int32),
        neighbour_shortlists=neighbours.shortlists(weights, recipe.neighbour_shortlist),
    )


def _traits(data: TrainingData, users_min: int) -> tuple[NDArray[np.uint64], csr_matrix]:
    """Keys of the traits that at least so many users have, ascending, and which user has which (users, traits), each
    user's adding up to 1."""
    kept = [traits[:TRAITS_MAX] for traits in data.traits]
    count = Counter(trait for traits in kept for trait in traits)
    names = sorted((trait for trait, users in count.items() if users >= users_min), key=key_of)
    place = {name: index for index, name in enumerate(names)}
    entries = [(user, place[trait]) for user, traits in enumerate(kept) for trait in traits if trait in place]
    rows, columns = np.array(entries, np.int64).reshape(-1, 2).T
    share = np.float32(1) / np.maximum(np.bincount(rows, minlength=data.users), 1).astype(np.float32)
    return keys_of(names), csr_matrix((share[rows], (rows, columns)), (data.users, len(names)), dtype=np.float32)
