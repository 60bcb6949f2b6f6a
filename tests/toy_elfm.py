"""A local factor model of nothing in particular, for what must hold for every model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from efficientrec.clusters import CoClusters
from efficientrec.encoders.elfm import ElfmEncoder
from efficientrec.model import Model
from efficientrec.shortlists import cut
from efficientrec.training.elfm import strongest_places
from tests.toy import random_model


def random_elfm(
    seed: int = 0,
    *,
    items: int = 60,
    dim: int = 5,
    clusters: int = 9,
    half_life_seconds: float = 604_800.0,
    spread: float = 1.0,
) -> Model:
    """spread: of the items' attention and readings."""
    model = random_model(seed, items=items, clusters=clusters, half_life_seconds=half_life_seconds)
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> NDArray[np.float32]:
        return (spread * rng.normal(size=shape)).astype(np.float32)

    encoder = ElfmEncoder(
        key=model.encoder.key,
        items=model.items,
        item_vectors=numbers(items, dim),
        heads=numbers(dim, clusters),
        readers=numbers(dim, clusters),
        half_life_seconds=half_life_seconds,
    )
    affinities = np.maximum(numbers(items, clusters), 0)
    places, values = strongest_places(affinities, 4)
    return replace(
        model,
        encoder=encoder,
        clusters=CoClusters(clusters, 3),
        cluster_shortlists=cut(np.ascontiguousarray(affinities.T), 12),
        ranking_places=places,
        ranking_vectors=values,
    )


def elfm_of(model: Model) -> ElfmEncoder:
    """The model's encoder, one of local factors."""
    assert isinstance(model.encoder, ElfmEncoder)
    return model.encoder
