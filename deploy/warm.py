"""Compiles the kernels that a worker calls into NUMBA_CACHE_DIR; run once while an image is built.

numba compiles for the types it meets, so the toy world goes the way of a real event: read from an artifact as a worker
reads one, folded with a model and before the first, packed into rows and read back, recommended to.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from efficientrec import artifact, profile
from efficientrec.interactions import keys_of
from efficientrec.model import Model
from efficientrec.popularity import Popularity
from efficientrec.recommend import recommend
from streams.slot import probe
from tests.toy import dislike, like, run_of, save_toy, toy_model


def warm() -> None:
    """Two runs of events: new rows, then those rows as they come back from disk."""
    with TemporaryDirectory() as folder:
        address = str(Path(folder) / "toy")
        model, _ = artifact.load(address, save_toy(toy_model(), address))
    probe(model, 8)
    for serving in (None, model):
        stored: list[bytes] | list[None] = [None, None]
        for offset in (0, 2):
            stored = _run(serving, stored, offset)
    profile.rebuilt(profile.unpack(stored, model.encoder.width, model.encoder.key + 1), model.encoder)


def _run(model: Model | None, stored: list[bytes] | list[None], offset: int) -> list[bytes]:
    run = run_of([like("anna", "a1", event_id=f"event {offset}"), dislike("ben", "b1")], offset)
    width, key = (0, 0) if model is None else (model.encoder.width, model.encoder.key)
    folded = profile.fold(profile.unpack(stored, width, key), run, None if model is None else model.encoder)
    rows = profile.take(folded.rows, np.arange(2))
    if model is None:
        Popularity.from_bytes(None, 1.0).fold(["a1"], run.weight[:1], run.at[:1]).recommend(rows, 8, lambda item: False)
    else:
        recommend(model, rows, 8, np.zeros(len(model.items), np.bool_))
    rows = profile.with_traits(rows, [keys_of(["taste=a"]), keys_of([])], np.array([0, 0], np.int64))
    return profile.pack(rows, partition=0)


if __name__ == "__main__":
    warm()
