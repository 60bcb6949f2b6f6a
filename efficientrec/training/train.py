"""From interactions to a model, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.clusters import Clusters
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.errors import TrainingImpossible
from efficientrec.evaluation import histories
from efficientrec.interactions import key_of, keys_of
from efficientrec.model import Blend, Model
from efficientrec.profile import TRAITS_MAX
from efficientrec.shortlists import Shortlists
from efficientrec.training import blending, memberships, popularity, ranking, transitions, trials, voting
from efficientrec.training.blending import Voices
from efficientrec.training.data import TrainingData
from efficientrec.training.descriptions import token_matrix
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import Trial
from efficientrec.vocabulary import Vocabulary

Progress = Callable[[str, float], None]
"""Told the name of a step and the share of it that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training gives."""

    model: Model
    """Learned from everything: the one to publish."""
    earlier: Model
    """The same recipe and voices, learned from what was before `cut` only: the one to judge on what came after."""
    cut: int
    """Milliseconds since the epoch."""
    voices: Voices
    scores: dict[str, dict[str, float]]
    """Of `earlier` (as `candidate`) and of popularity, on held-out events that played no part in choosing the
    voices."""


def train(
    data: TrainingData,
    recipe: Recipe,
    *,
    version: str,
    progress: Progress | None = None,
    trial: Callable[[TrainingData, Recipe], Trial] = trials.next_events,
) -> Trained:
    """Learns a model.

    1. Hold something out: for a stream, the latest interactions.
    2. Build a model of the rest.
    3. Choose how loud its voices speak, on one part of what was held out; score it on the other.
    4. Build the model of everything, with those voices.

    Raises TrainingImpossible when there is too little to learn from, TrainingDiverged when a loss is not finite.
    """
    report = progress or _silent
    _enough(data)
    held_out = trial(data, recipe)
    earlier, popular = build(held_out.learn, recipe, version, lambda step, share: report(f"held out: {step}", share))
    report("voices", 0.0)
    voices = Voices()
    if held_out.choosing is not None:
        voices = blending.choose(earlier, popular, held_out.choosing(earlier), recipe)
    earlier = blending.applied(earlier, voices, popular)
    scores = held_out.scores(earlier)
    model, popular = build(data, recipe, version, report)
    report("done", 1.0)
    return Trained(
        model=blending.applied(model, voices, popular), earlier=earlier, cut=held_out.cut, voices=voices, scores=scores
    )


def _silent(step: str, share: float) -> None:
    """Reports to nobody."""


def signed(data: TrainingData, half_life_seconds: float | None) -> csr_matrix:
    """(users, items) the weights that users gave, the last one where an item was met twice; decayed to each user's last
    interaction where a half-life is given."""
    amount = data.weight.astype(np.float64)
    if half_life_seconds is not None:
        last = np.zeros(data.users, np.int64)
        np.maximum.at(last, data.user, data.at)
        amount = amount * 2.0 ** ((data.at - last[data.user]) / (1000 * half_life_seconds))
    pair = data.user.astype(np.int64) * len(data.items) + data.item
    _, latest = np.unique(pair[::-1], return_index=True)
    latest = len(pair) - 1 - latest
    shape = (data.users, len(data.items))
    return csr_matrix((amount[latest].astype(np.float32), (data.user[latest], data.item[latest])), shape)


def _positive(weights: csr_matrix) -> csr_matrix:
    liked = csr_matrix((np.maximum(weights.data, 0), weights.indices, weights.indptr), weights.shape, copy=True)
    liked.eliminate_zeros()
    return liked


def build(data: TrainingData, recipe: Recipe, version: str, progress: Progress) -> tuple[Model, NDArray[np.float64]]:
    """A model of these interactions, with voices that are yet to be chosen, and the popularity (items,) of its items
    in [0, 1]."""
    _enough(data)
    progress("ranking", 0.0)
    weights = signed(data, None)
    tokens = token_matrix(data.tokens, recipe.token_items_min, recipe.tokens_max)
    closed = ranking.fit(_positive(weights), tokens, recipe)

    progress("memberships", 0.0)
    trait_keys, traits = _traits(data)
    seen = np.bincount(data.user, minlength=data.users)
    clusters = int(np.clip((seen >= 2).sum() // recipe.users_per_cluster, 2 * 2, recipe.clusters))
    kept = min(recipe.clusters_kept, clusters // 2)
    head = memberships.fit(
        signed(data, recipe.half_life_seconds),
        traits,
        closed.item_vectors,
        clusters,
        recipe,
        lambda share: progress("memberships", share),
    )

    progress("shortlists", 0.0)
    decayed = popularity.decayed(data, recipe.popularity_half_life_seconds)
    vocabulary = Vocabulary(data.items)
    encoder = EfficientRecEncoder(
        key=key_of(version),
        items=vocabulary,
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
    model = Model(
        version=version,
        items=vocabulary,
        encoder=encoder,
        clusters=Clusters(head.cluster_weights, head.cluster_bias, kept),
        cluster_shortlists=Shortlists(np.full((clusters, 1), -1, np.int32), np.zeros((clusters, 1), np.float32)),
        anchor_shortlists=transitions.shortlists(
            data, recipe.transition_window, recipe.anchor_shortlist, recipe.transition_floor
        ),
        popular=np.argsort(-decayed, kind="stable")[: recipe.popular].astype(np.int32),
        ranking_vectors=closed.ranking_vectors,
        item_bias=np.zeros(len(data.items), np.float32),
        blend=Blend(cluster_weight=1.0, anchor_weight=1.0, anchors=1, anchor_decay=1.0),
    )
    chosen, p = model.clusters.assign(encoder.vector(histories.all_of(model, data)))
    active = seen > 0
    lists = voting.shortlists(
        chosen[active], p[active], clusters, weights[active], recipe.prior, recipe.cluster_shortlist
    )
    model = replace(model, cluster_shortlists=lists)
    relative = decayed / max(float(decayed.max()), 1e-9)
    return blending.applied(model, Voices(), relative), relative


def _traits(data: TrainingData) -> tuple[NDArray[np.uint64], csr_matrix]:
    """Keys of the known traits, ascending, and which user has which (users, traits), each user's adding up to 1."""
    names = sorted({trait for traits in data.traits for trait in traits[:TRAITS_MAX]}, key=key_of)
    place = {name: index for index, name in enumerate(names)}
    entries = [
        (user, place[trait], 1 / len(traits[:TRAITS_MAX]))
        for user, traits in enumerate(data.traits)
        for trait in traits[:TRAITS_MAX]
    ]
    rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
    return keys_of(names), csr_matrix(
        (np.array(values, np.float32), (rows, columns)), (data.users, len(names)), dtype=np.float32
    )


def _enough(data: TrainingData) -> None:
    if len(data) == 0 or not (data.weight > 0).any():
        raise TrainingImpossible("no interaction with a positive weight: wait until users like something")
    several = int((np.bincount(data.user, minlength=data.users) >= 2).sum())
    if several < 8:
        raise TrainingImpossible(f"{several} users with two interactions or more; at least 8 are needed")
