"""How loud each voice speaks: chosen on held-out later events, through the code that serves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.model import Blend, Model
from efficientrec.training.recipe import Recipe
from efficientrec.training.trials import Judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """What is chosen after the model's arrays are learned."""

    cluster_weight: float = 0.01
    anchor_weight: float = 0.1
    anchors: int = 8
    anchor_decay: float = 0.9
    popularity: float = 0.05
    """What the most popular item of the moment gains over one that nobody touches."""
    dislike: float = 0.0
    """γ: how much a dislike takes from the taste that a like gives."""


GRID: dict[str, tuple[float, ...]] = {
    "anchor_weight": (0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8),
    "cluster_weight": (0.002, 0.01, 0.05, 0.1, 0.2),  # never 0: a cluster that nominates an item is also its reason
    "popularity": (0.0, 0.02, 0.05, 0.1, 0.2),
    "anchor_decay": (0.6, 0.7, 0.8, 0.9, 0.95),
    "anchors": (1, 4, 8, 16, 32),
    "dislike": (0.0, 0.25, 0.5, 1.0),
}
SWEEPS = 2
WORTH = 0.002  # relative gain below which a change is noise and is not made


def applied(model: Model, voices: Voices, popularity: NDArray[np.float64]) -> Model:
    """The model with these voices. popularity (items,): in [0, 1]."""
    encoder = model.encoder
    return replace(
        model,
        encoder=replace(encoder, dislike=voices.dislike) if isinstance(encoder, EfficientRecEncoder) else encoder,
        item_bias=(voices.popularity * popularity).astype(np.float32),
        blend=Blend(
            cluster_weight=voices.cluster_weight,
            anchor_weight=voices.anchor_weight,
            anchors=int(voices.anchors),
            anchor_decay=voices.anchor_decay,
        ),
    )


def choose(model: Model, popularity: NDArray[np.float64], judged: Judged, recipe: Recipe) -> Voices:
    """The voices with the best NDCG: one after another is tried at a few values, for two rounds.

    judged: held-out scores of a model, the longest NDCG last. What scores more items for a list than the recipe allows
    is marked down by as much.
    """
    voices = Voices()
    limit = max(recipe.scored_min, recipe.scored_share * len(model.items))
    tried: dict[Voices, float] = {}

    def worth(candidate: Voices) -> float:
        if candidate not in tried:
            scores = judged(applied(model, candidate, popularity))
            gain = [value for name, value in scores.items() if name.startswith("ndcg@")][-1]
            tried[candidate] = gain * min(1.0, limit / max(scores["items_scored"], 1.0))
        return tried[candidate]

    for _ in range(SWEEPS):
        for name, values in GRID.items():
            for value in values:
                candidate = Voices(**{**asdict(voices), name: value})
                if worth(candidate) > worth(voices) * (1 + WORTH):
                    voices = candidate
    return voices
