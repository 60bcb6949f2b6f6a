"""Training on a data set in a folder, without Kafka: what `efficientrec train` does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from efficientrec import artifact
from efficientrec.datasets import read_dataset, weight_rules
from efficientrec.recommender import WEIGHTS, told
from efficientrec.training.data import of_dataset
from efficientrec.training.learned import Progress
from efficientrec.training.recipe import Recipe
from efficientrec.training.train import Trained, train


def train_folder(
    folder: Path | str,
    out: str,
    *,
    version: str,
    created_at: str,
    recipe: Recipe,
    progress: Progress | None = None,
    checkpoints: Path | None = None,
) -> tuple[Trained, str]:
    """Trains on everything in a folder and writes the artifact to `out`. Returns what was trained, and the digest."""
    dataset = read_dataset(folder)
    data = of_dataset(dataset)
    trained = train(data, recipe, version=version, progress=progress, checkpoints=checkpoints)
    digest = artifact.save(
        trained.model,
        out,
        created_at=created_at,
        window=artifact.Window(interactions=len(data), first_at=int(data.at[0]), last_at=int(data.at[-1])),
        settings={**asdict(recipe), WEIGHTS: told(weight_rules(dataset))},
        scores=trained.scores,
    )
    return trained, digest
