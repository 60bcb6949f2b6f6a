"""From interactions to a model, top to bottom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from efficientrec import profile
from efficientrec.errors import SettingInvalid, TrainingImpossible
from efficientrec.evaluation import histories
from efficientrec.model import Blend, Model
from efficientrec.shortlists import Shortlists, nothing
from efficientrec.training import blending, neighbours, popularity, transitions, trials, voting
from efficientrec.training.blending import Unvoiced, Voices
from efficientrec.training.data import TrainingData
from efficientrec.training.descriptions import token_matrix
from efficientrec.training.learned import Progress
from efficientrec.training.learners import LEARNERS
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import Choosing
from efficientrec.training.weights import positive, signed


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
    checkpoints: Path | None = None,
) -> Trained:
    """Learns a model.

    1. Hold something out: for a stream, the latest interactions.
    2. Build a model of the rest.
    3. Choose how loud its voices speak, on one part of what was held out; score it on the other.
    4. Build the model of everything, with those voices.

    checkpoints: a folder in which a training that was cut off finds what it had learned.

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
        checkpoints=checkpoints,
    )
    scores = held_out.scores(earlier)
    model = refit(data, recipe, version=version, voices=voices, progress=report, checkpoints=checkpoints)
    report("done", 1.0)
    return Trained(model=model, earlier=earlier, cut=held_out.cut, voices=voices, scores=scores)


def fit(
    data: TrainingData,
    recipe: Recipe,
    *,
    version: str,
    choosing: Choosing | None,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> tuple[Model, Voices]:
    """A model of these interactions, with the voices that do best on what is held out from them."""
    report = progress or _silent
    unvoiced = build(data, recipe, version, report, checkpoints)
    report("voices", 0.0)
    voices = Voices() if choosing is None else blending.choose(unvoiced, choosing(unvoiced.model), recipe)
    return unvoiced.speaking(voices), voices


def refit(
    data: TrainingData,
    recipe: Recipe,
    *,
    version: str,
    voices: Voices,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> Model:
    """A model of these interactions with voices that are already chosen."""
    return build(data, recipe, version, progress or _silent, checkpoints).speaking(voices)


def _silent(step: str, share: float) -> None:
    """Reports to nobody."""


def build(
    data: TrainingData, recipe: Recipe, version: str, progress: Progress, checkpoints: Path | None = None
) -> Unvoiced:
    """A model of these interactions, with voices that are yet to be chosen."""
    if recipe.encoder not in LEARNERS:
        raise SettingInvalid(f"encoder is {recipe.encoder!r}; expected one of {', '.join(LEARNERS)}")
    _enough(data)
    learned = LEARNERS[recipe.encoder](data, recipe, version, progress, checkpoints)
    progress("shortlists", 0.0)
    decayed = popularity.decayed(data, recipe.popularity_half_life_seconds)
    items, clusters = len(data.items), len(learned.clusters)
    model = Model(
        version=version,
        items=learned.encoder.items,
        encoder=learned.encoder,
        clusters=learned.clusters,
        cluster_shortlists=learned.cluster_shortlists or nothing(clusters),
        anchor_shortlists=blending.leveled(
            transitions.shortlists(data, recipe.transition_window, recipe.anchor_shortlist, recipe.transition_backward)
        ),
        neighbour_shortlists=blending.leveled(learned.neighbour_shortlists or _neighbours(data, recipe)),
        popular=np.argsort(-decayed, kind="stable")[: recipe.popular].astype(np.int32),
        ranking_vectors=learned.ranking_vectors,
        ranking_places=learned.ranking_places,
        item_bias=np.zeros(items, np.float32),
        blend=Blend(cluster_weight=1.0, anchor_weight=1.0, anchors=1, anchor_decay=1.0),
    )
    if learned.cluster_shortlists is None:
        model = replace(model, cluster_shortlists=blending.leveled(_favourites(model, data, recipe)))
    return blending.unvoiced(model, decayed / max(float(decayed.max()), 1e-9), data, recipe.seed)


def _favourites(model: Model, data: TrainingData, recipe: Recipe) -> Shortlists:
    """What the members of each cluster like."""
    active = np.flatnonzero(np.bincount(data.user, minlength=data.users) > 0)
    rows = profile.take(histories.all_of(model, data), active)
    chosen, p = model.clusters.assign(model.encoder.vector(rows))
    clusters, size = len(model.clusters), recipe.cluster_shortlist
    if not recipe.fitted_shortlists or model.ranking_places.shape[1]:
        return voting.means(chosen, p, clusters, signed(data, None)[active], recipe.prior, size)
    return voting.fitted(chosen, p, clusters, model.encoder.taste(rows), model.ranking_vectors, recipe.prior, size)


def _neighbours(data: TrainingData, recipe: Recipe) -> Shortlists:
    """What resembles each item."""
    tokens = token_matrix(data.tokens, recipe.token_items_min, recipe.tokens_max)
    return neighbours.shortlists(
        neighbours.fit(positive(signed(data, None)), tokens, recipe), recipe.neighbour_shortlist
    )


def _enough(data: TrainingData) -> None:
    if len(data) == 0 or not (data.weight > 0).any():
        raise TrainingImpossible("no interaction with a positive weight: wait until users like something")
    several = int((np.bincount(data.user, minlength=data.users) >= 2).sum())
    if several < 8:
        raise TrainingImpossible(f"{several} users with two interactions or more; at least 8 are needed")
