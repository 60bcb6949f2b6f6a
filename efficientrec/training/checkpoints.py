"""Where a training leaves what it has learned so far."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

import msgspec

from efficientrec.training.data import TrainingData
from efficientrec.training.loop import Checkpoint
from efficientrec.training.recipe import Recipe


def place(folder: Path | None, data: TrainingData, recipe: Recipe) -> Checkpoint | None:
    """The checkpoint of these data and this recipe, in a folder that exists afterwards. None where there is none."""
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(msgspec.json.encode(asdict(recipe)))
    for column in (data.user, data.item, data.weight, data.at):
        digest.update(column.tobytes())
    digest.update(msgspec.json.encode((data.items, data.tokens, data.traits)))
    about = digest.hexdigest()
    return Checkpoint(folder / f"{recipe.encoder}-{about[:16]}.safetensors", about)
