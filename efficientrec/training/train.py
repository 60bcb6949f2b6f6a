"""From interactions to a model, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efficientrec.errors import SettingInvalid, TrainingImpossible
from efficientrec.evaluation import histories
from efficientrec.model import Blend, Model
from efficientrec.shortlists import Shortlists, nothing
from efficientrec.training import blending, popularity, transitions, trials, voting
from efficientrec.training.blending import Voices
from efficientrec.training.data import TrainingData
from efficientrec.training.learned import Progress
from efficientrec.training.learners import LEARNERS
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import Choosing
from efficientrec.training.weights import signed


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
    held_out = trials.next_events(data, recipe)
    earlier, voices = fit(
        held_out.learn,
        recipe,
        version=version,
        choosing=held_out.choosing,
        progress=lambda step, share: report(f"held out: {step}", share),
    )
    scores = held_out.scores(earlier)
    model = refit(data, recipe, version=version, voices=voices, progress=report)
    report("done", 1.0)
    return Trained(model=model, earlier=earlier, cut=held_out.cut, voices=voices, scores=scores)


def fit(
    data: TrainingData,
    recipe: Recipe,
    *,
    version: str,
    choosing: Choosing | None,
    progress: Progress | None = None,
) -> tuple[Model, Voices]:
    """A model of these interactions, with the voices that do best on what is held out from them."""
    report = progress or _silent
    model, popular = build(data, recipe, version, report)
    report("voices", 0.0)
    voices = Voices() if choosing is None else blending.choose(model, popular, choosing(model), recipe)
    return blending.applied(model, voices, popular), voices


def refit(
    data: TrainingData, recipe: Recipe, *, version: str, voices: Voices, progress: Progress | None = None
) -> Model:
    """A model of these interactions with voices that are already chosen."""
    model, popular = build(data, recipe, version, progress or _silent)
    return blending.applied(model, voices, popular)


def _silent(step: str, share: float) -> None:
    """Reports to nobody."""


def build(data: TrainingData, recipe: Recipe, version: str, progress: Progress) -> tuple[Model, NDArray[np.float64]]:
    """A model of these interactions, with voices that are yet to be chosen, and the popularity (items,) of its items
    in [0, 1]."""
    if recipe.encoder not in LEARNERS:
        raise SettingInvalid(f"encoder is {recipe.encoder!r}; expected one of {', '.join(LEARNERS)}")
    _enough(data)
    learned = LEARNERS[recipe.encoder](data, recipe, version, progress)
    progress("shortlists", 0.0)
    decayed = popularity.decayed(data, recipe.popularity_half_life_seconds)
    items, clusters = len(data.items), len(learned.clusters)
    model = Model(
        version=version,
        items=learned.encoder.items,
        encoder=learned.encoder,
        clusters=learned.clusters,
        cluster_shortlists=learned.cluster_shortlists or nothing(clusters),
        anchor_shortlists=transitions.shortlists(
            data, recipe.transition_window, recipe.anchor_shortlist, recipe.transition_backward
        ),
        neighbour_shortlists=nothing(items),
        popular=np.argsort(-decayed, kind="stable")[: recipe.popular].astype(np.int32),
        ranking_vectors=learned.ranking_vectors,
        ranking_places=learned.ranking_places,
        item_bias=np.zeros(items, np.float32),
        blend=Blend(cluster_weight=1.0, anchor_weight=1.0, anchors=1, anchor_decay=1.0),
    )
    if learned.cluster_shortlists is None:
        model = replace(model, cluster_shortlists=_favourites(model, data, recipe))
    relative = decayed / max(float(decayed.max()), 1e-9)
    return blending.applied(model, Voices(), relative), relative


def _favourites(model: Model, data: TrainingData, recipe: Recipe) -> Shortlists:
    """What the members of each cluster like."""
    chosen, p = model.clusters.assign(model.encoder.vector(histories.all_of(model, data)))
    active = np.bincount(data.user, minlength=data.users) > 0
    return voting.shortlists(
        chosen[active],
        p[active],
        len(model.clusters),
        signed(data, None)[active],
        recipe.prior,
        recipe.cluster_shortlist,
    )


def _enough(data: TrainingData) -> None:
    if len(data) == 0 or not (data.weight > 0).any():
        raise TrainingImpossible("no interaction with a positive weight: wait until users like something")
    several = int((np.bincount(data.user, minlength=data.users) >= 2).sum())
    if several < 8:
        raise TrainingImpossible(f"{several} users with two interactions or more; at least 8 are needed")
