"""The toy world: two tastes, a known right answer, and no training.

Items a1…a8 are of taste A, b1…b8 of taste B. An item's vector is its taste, (1, 0) or (0, 1). Who likes A belongs to
cluster A, and so does who has the trait `taste=a`. Cluster A's shortlist is a1…a6, best first; after a2 people take a3,
after a3 a4, and so on. a1 is the most popular item, then b1, a2, b2 and so on.

So who likes a1 and a2 should get a3 before all else, other A before any B, and neither a1 nor a2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientrec import profile
from efficientrec.artifact import Window, save
from efficientrec.clusters import Clusters
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.encoders.elcrec import ElcrecEncoder
from efficientrec.interactions import Interactions, key_of, keys_of
from efficientrec.model import Blend, Model
from efficientrec.profile import Rows
from efficientrec.recommend import Recommendations
from efficientrec.recompute import Event
from efficientrec.shortlists import Shortlists, nothing
from efficientrec.vocabulary import Vocabulary

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

START = 1_700_000_000_000
"""When things happen that name no time, in milliseconds."""
DAY = 86_400_000
TASTES = ("a", "b")
ITEMS = tuple(f"{taste}{number}" for number in range(1, 9) for taste in TASTES)
"""The most popular first."""
CLUSTER = {"a": 0, "b": 1}


def toy_model(version: str = "toy-1", items: Sequence[str] = ITEMS) -> Model:
    """The world as a model. items: those that it knows, the most popular first; fewer make a model of earlier days."""
    place = {item: index for index, item in enumerate(items)}
    taste = np.array([[item[0] == "a", item[0] == "b"] for item in items], np.float32).reshape(-1, 2)

    def shortlist(names: Sequence[str], size: int) -> list[int]:
        known = [place[name] for name in names if name in place]
        return known + [-1] * (size - len(known))

    by_cluster = [shortlist([f"{name}{number}" for number in range(1, 7)], 6) for name in TASTES]
    by_anchor = [shortlist([f"{item[0]}{int(item[1:]) + 1}"], 1) for item in items]
    traits = sorted((key_of(f"taste={name}"), name) for name in TASTES)
    # Inputs of the first layer: mean of likes (A, B), mean of dislikes (A, B), two weights, trait (A, B).
    hidden_weights = np.zeros((8, 2), np.float32)
    for first in (0, 6):
        hidden_weights[first : first + 2] = np.eye(2)
    encoder = EfficientRecEncoder(
        key=key_of(version),
        items=Vocabulary(items),
        item_vectors=taste,
        half_life_seconds=30 * DAY / 1000,
        dislike=0.5,
        trait_keys=np.array([key for key, _ in traits], np.uint64),
        trait_vectors=np.array([[name == "a", name == "b"] for _, name in traits], np.float32),
        hidden_weights=hidden_weights,
        hidden_bias=np.zeros(2, np.float32),
        vector_weights=np.eye(2, dtype=np.float32),
        vector_bias=np.zeros(2, np.float32),
    )
    return Model(
        version=version,
        items=encoder.items,
        encoder=encoder,
        clusters=Clusters(4 * np.eye(2, dtype=np.float32), np.full(2, -2, np.float32), 2),
        cluster_shortlists=Shortlists(
            np.array(by_cluster, np.int32), np.tile(np.linspace(0.6, 0.1, 6, dtype=np.float32), (2, 1))
        ),
        anchor_shortlists=Shortlists(
            np.array(by_anchor, np.int32).reshape(-1, 1), np.ones((len(items), 1), np.float32)
        ),
        neighbour_shortlists=nothing(len(items)),
        popular=np.arange(len(items), dtype=np.int32),
        ranking_vectors=taste.copy(),
        ranking_places=np.zeros((len(items), 0), np.int32),
        item_bias=np.linspace(0.1, 0, len(items), dtype=np.float32),
        blend=Blend(cluster_weight=1.0, anchor_weight=1.0, anchors=2, anchor_decay=0.5),
    )


def additive(model: Model) -> EfficientRecEncoder:
    """The model's encoder, one of sums."""
    assert isinstance(model.encoder, EfficientRecEncoder)
    return model.encoder


def sigmoid(model: Model) -> Clusters:
    """The model's clusters, of the usual kind."""
    assert isinstance(model.clusters, Clusters)
    return model.clusters


class Act(NamedTuple):
    """What a user did to an item."""

    user: str
    item: str
    weight: float
    at: int = START
    event_id: str | None = None
    excludes: bool = True
    arrived: int = START
    """When the broker got it."""


def like(user: str, item: str, at: int = START, event_id: str | None = None) -> Act:
    return Act(user, item, 1.0, at, event_id)


def dislike(user: str, item: str, at: int = START, event_id: str | None = None) -> Act:
    return Act(user, item, -1.0, at, event_id)


def view(user: str, item: str, at: int = START, event_id: str | None = None) -> Act:
    return Act(user, item, 0.1, at, event_id, excludes=False)


def run_of(acts: Sequence[Act], first_offset: int = 0, users: Sequence[str] | None = None) -> Interactions:
    """The acts as a run of one partition, at consecutive offsets. users: other than those that occur, in order."""
    users = list(dict.fromkeys(act.user for act in acts)) if users is None else users
    place = {user: index for index, user in enumerate(users)}
    return Interactions(
        users=users,
        user=np.array([place[act.user] for act in acts], np.int32),
        item=keys_of([act.item for act in acts]),
        weight=np.array([act.weight for act in acts], np.float32),
        at=np.array([act.at for act in acts], np.int64),
        arrived=np.array([act.arrived for act in acts], np.int64),
        offset=np.arange(first_offset, first_offset + len(acts), dtype=np.int64),
        event=np.array([key_of(act.event_id) if act.event_id else 0 for act in acts], np.uint64),
        excludes=np.array([act.excludes for act in acts], np.bool_),
    )


def events_of(acts: Sequence[Act], user: str, first_offset: int = 0) -> list[Event]:
    """The same acts as the log has them for one user: input of `recompute`."""
    return [
        Event(offset, act.item, act.weight, act.at, act.event_id, act.excludes, act.arrived)
        for offset, act in enumerate(acts, first_offset)
        if act.user == user
    ]


def rows_after(model: Model | None, *acts: Act) -> Rows:
    """The rows, new before, of those who occur in the acts, in the order in which they first do."""
    run = run_of(acts)
    return profile.fold(profile.empty(len(run.users)), run, model.encoder if model else None).rows


def new_rows(model: Model, users: int = 1) -> Rows:
    """Rows of users of whom nothing is known, ready for `recommend`."""
    return profile.rebuilt(profile.empty(users), model.encoder)


def names(model: Model, recommendations: Recommendations, user: int = 0) -> list[str]:
    """The item ids of a user's list, without what only fills it."""
    return [model.items.ids[item] for item in recommendations.items[user] if item >= 0]


def same_bits(left: DataclassInstance, right: DataclassInstance) -> bool:
    """Whether two dataclasses of arrays are equal to the last bit, the sign of a zero included."""
    return type(left) is type(right) and all(
        np.asarray(getattr(left, field.name)).tobytes() == np.asarray(getattr(right, field.name)).tobytes()
        for field in fields(left)
    )


def save_toy(model: Model, address: str, created_at: str = "2026-01-01T00:00:00Z") -> str:
    """Writes the model as an artifact; returns its digest."""
    return save(
        model,
        address,
        created_at=created_at,
        window=Window(interactions=16, first_at=START, last_at=START + DAY, offsets={"0": 16}),
        settings={"seed": 0},
        scores={"this": {"ndcg": 1.0}},
    )


def random_model(
    seed: int = 0,
    *,
    items: int = 60,
    dim: int = 5,
    clusters: int = 9,
    traits: int = 3,
    version: str = "random",
    half_life_seconds: float = 604_800.0,
) -> Model:
    """A model of nothing in particular, for what must hold for every model. Some shortlists are shorter than others."""
    rng = np.random.default_rng(seed)
    hidden, width = 7, 2 * dim + 2

    def numbers(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    def shortlists(owners: int, size: int) -> Shortlists:
        places = np.array([rng.permutation(items)[:size] for _ in range(owners)], np.int32).reshape(
            owners, min(size, items)
        )
        length = rng.integers(0, places.shape[1] + 1, (owners, 1))
        scores = -np.sort(-rng.random(places.shape).astype(np.float32), axis=1)
        held = np.arange(places.shape[1]) < length
        return Shortlists(np.where(held, places, np.int32(-1)), np.where(held, scores, np.float32(0)))

    vocabulary = Vocabulary([f"i{number}" for number in range(items)])
    encoder = EfficientRecEncoder(
        key=key_of(version),
        items=vocabulary,
        item_vectors=numbers(items, dim),
        half_life_seconds=half_life_seconds,
        dislike=0.3,
        trait_keys=np.sort(keys_of([f"trait={number}" for number in range(traits)])),
        trait_vectors=numbers(traits, 4),
        hidden_weights=numbers(width + 4, hidden),
        hidden_bias=numbers(hidden),
        vector_weights=numbers(hidden, hidden),
        vector_bias=numbers(hidden),
    )
    return Model(
        version=version,
        items=vocabulary,
        encoder=encoder,
        clusters=Clusters(numbers(hidden, clusters), numbers(clusters), min(4, clusters)),
        cluster_shortlists=shortlists(clusters, 12),
        anchor_shortlists=shortlists(items, 6),
        neighbour_shortlists=shortlists(items, 5),
        popular=rng.permutation(items)[:20].astype(np.int32),
        ranking_vectors=numbers(items, dim),
        ranking_places=np.zeros((items, 0), np.int32),
        item_bias=numbers(items),
        blend=Blend(
            cluster_weight=0.7,
            anchor_weight=1.3,
            anchors=3,
            anchor_decay=0.8,
            neighbour_weight=0.4,
            neighbours=5,
            neighbour_decay=0.9,
            neighbour_nominees=2,
            popularity=0.6,
            newcomer_popularity=1.7,
            newcomer_events=3,
        ),
    )


def random_sequence_model(seed: int = 0, *, items: int = 60, layers: int = 1, length: int = 7) -> Model:
    """`random_model` with an encoder that reads sequences."""
    rng = np.random.default_rng(seed)
    model = random_model(seed, items=items)
    hidden, dim = sigmoid(model).weights.shape[0], model.ranking_vectors.shape[1] - 1

    def numbers(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    encoder = ElcrecEncoder(
        key=key_of(model.version),
        items=model.items,
        item_vectors=numbers(items, dim),
        nearness=numbers(layers, 1, length),
        norms=numbers(layers, 2, 2, dim),
        attention=numbers(layers, 4, dim, dim),
        attention_bias=numbers(layers, 4, dim),
        up=numbers(layers, dim, hidden),
        up_bias=numbers(layers, hidden),
        down=numbers(layers, hidden, dim),
        down_bias=numbers(layers, dim),
        scale=0.7,
    )
    clusters = Clusters(numbers(dim, len(model.clusters)), sigmoid(model).bias, model.clusters.kept)
    return replace(model, encoder=encoder, clusters=clusters)
