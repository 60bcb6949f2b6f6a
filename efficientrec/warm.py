"""Compiles the kernels before the first event needs them, with a model as small as a model can be.

numba compiles for the types it meets and keeps the result in its cache (NUMBA_CACHE_DIR), so this takes ten seconds or
so once, and a fraction of a second from then on. `python -m efficientrec.warm` fills the cache when an image is built,
with the kernels of every encoder: an image does not know which one will be released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from efficientrec import json_kernel, kernels, msgpack_kernel, profile
from efficientrec.clusters import Clusters, CoClusters
from efficientrec.encoders.efficientrec import EfficientRecEncoder
from efficientrec.encoders.elcrec import ElcrecEncoder
from efficientrec.encoders.elfm import ElfmEncoder
from efficientrec.interactions import Interactions, key_of
from efficientrec.list_kernel import room_of
from efficientrec.model import Blend, Model
from efficientrec.recommend import Recommendations, recommend
from efficientrec.shortlists import Shortlists, nothing
from efficientrec.vocabulary import Vocabulary

ITEMS, DIM, HIDDEN, CLUSTERS = 8, 4, 4, 2


def warm(*writers: ModuleType) -> None:
    """Lets two users go the way of every user: without a model, with one of the default encoder, from bytes and back,
    up to their lists. Then places a key. writers: the kernels that write the lists."""
    _warm([_additive()], writers)


def warm_every_encoder(*writers: ModuleType) -> None:
    """The same with a model of each encoder."""
    model = _additive()
    _warm([model, _local(model), _sequence(model)], writers)


def _warm(models: Sequence[Model], writers: Sequence[ModuleType]) -> None:
    for model in models:
        stored: list[bytes | None] = [None, None]
        for offset, encoder in ((0, None), (2, model.encoder), (4, model.encoder)):
            width, key = (0, 0) if encoder is None else (encoder.width, encoder.key)
            rows = profile.fold(profile.unpack(stored, width, key), _run(model, offset), encoder).rows
            stored = list(profile.pack(rows, partition=0))
            if encoder is not None:
                recommend(model, profile.take(rows, np.array([0])), 4)  # one alone: numba sees it in one piece
                lists = recommend(model, rows, 4)
                for writer in writers:
                    _write(model, lists, writer)
    text = np.frombuffer(b"warm", np.uint8)  # read-only, as keys joined from records are
    kernels.murmur2(text, np.zeros(1, np.int64), np.full(1, len(text), np.int64), np.empty(1, np.uint32))


def _write(model: Model, lists: Recommendations, kernel: ModuleType) -> None:
    heads = np.frombuffer(b"{}" * len(lists.items), np.uint8)
    head_end = np.arange(2, len(heads) + 1, 2)
    ids, id_start = model.items.written(kernel.id_members)
    sizes = (lists.clusters.shape[1], kernel.ITEM_BYTES, kernel.CLUSTER_BYTES)
    room = room_of(lists.items, lists.strongest, id_start, *sizes)
    out, end = np.empty(len(heads) + room, np.uint8), np.empty(len(head_end), np.int64)
    recommended = (lists.clusters, lists.memberships, lists.items, lists.scores, lists.strongest, lists.part)
    ranks = kernel.rank_members(lists.items.shape[1])
    kernel.write_lists(heads, head_end, *recommended, ids, id_start, *ranks, out, end)


def _run(model: Model, offset: int) -> Interactions:
    return Interactions(
        users=["a", "b"],
        user=np.array([0, 1], np.int32),
        item=model.items.keys[:2].copy(),
        weight=np.array([1.0, -1.0], np.float32),
        at=np.array([1000, 2000], np.int64),
        arrived=np.array([1000, 2000], np.int64),
        offset=np.array([offset, offset + 1], np.int64),
        event=np.array([offset + 1, 0], np.uint64),
        excludes=np.array([True, False]),
    )


def _zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def _additive() -> Model:
    items = Vocabulary([f"item {number}" for number in range(ITEMS)])
    encoder = EfficientRecEncoder(
        key=key_of("warm"),
        items=items,
        item_vectors=_zeros(ITEMS, DIM),
        half_life_seconds=1.0,
        dislike=0.0,
        trait_keys=np.zeros(0, np.uint64),
        trait_vectors=_zeros(0, 1),
        hidden_weights=_zeros(2 * DIM + 2 + 1, HIDDEN),
        hidden_bias=_zeros(HIDDEN),
        vector_weights=_zeros(HIDDEN, HIDDEN),
        vector_bias=_zeros(HIDDEN),
    )
    return Model(
        version="warm",
        items=items,
        encoder=encoder,
        clusters=Clusters(_zeros(HIDDEN, CLUSTERS), _zeros(CLUSTERS), 1),
        cluster_shortlists=Shortlists(np.zeros((CLUSTERS, 2), np.int32), _zeros(CLUSTERS, 2)),
        anchor_shortlists=Shortlists(np.zeros((ITEMS, 2), np.int32), _zeros(ITEMS, 2)),
        popular=np.arange(ITEMS, dtype=np.int32),
        neighbour_shortlists=nothing(ITEMS),
        ranking_vectors=_zeros(ITEMS, DIM),
        ranking_places=np.zeros((ITEMS, 0), np.int32),
        item_bias=_zeros(ITEMS),
        blend=Blend(cluster_weight=0.0, anchor_weight=0.0, anchors=1, anchor_decay=1.0),
    )


def _local(model: Model) -> Model:
    encoder = ElfmEncoder(
        key=model.encoder.key,
        items=model.items,
        item_vectors=_zeros(ITEMS, DIM),
        heads=_zeros(DIM, CLUSTERS),
        readers=_zeros(DIM, CLUSTERS),
        half_life_seconds=1.0,
    )
    return replace(
        model,
        encoder=encoder,
        clusters=CoClusters(CLUSTERS, 1),
        ranking_vectors=_zeros(ITEMS, 1),
        ranking_places=np.zeros((ITEMS, 1), np.int32),
    )


def _sequence(model: Model) -> Model:
    encoder = ElcrecEncoder(
        key=model.encoder.key,
        items=model.items,
        item_vectors=_zeros(ITEMS, DIM),
        nearness=_zeros(1, 1, 2),
        norms=_zeros(1, 2, 2, DIM),
        attention=_zeros(1, 4, DIM, DIM),
        attention_bias=_zeros(1, 4, DIM),
        up=_zeros(1, DIM, HIDDEN),
        up_bias=_zeros(1, HIDDEN),
        down=_zeros(1, HIDDEN, DIM),
        down_bias=_zeros(1, DIM),
        scale=1.0,
    )
    return replace(
        model,
        encoder=encoder,
        clusters=Clusters(_zeros(DIM, CLUSTERS), _zeros(CLUSTERS), 1),
        ranking_vectors=_zeros(ITEMS, DIM + 1),
    )


if __name__ == "__main__":
    warm_every_encoder(json_kernel, msgpack_kernel)
