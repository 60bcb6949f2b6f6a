"""Training and evaluation of a data set in a folder, without Kafka: what `efficientrec train` and `evaluate` do."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from efficientrec import artifact
from efficientrec.datasets import read_dataset
from efficientrec.errors import SettingInvalid
from efficientrec.evaluation import baselines, protocols
from efficientrec.training import trials
from efficientrec.training.data import of_dataset
from efficientrec.training.learned import Progress
from efficientrec.training.recipe import Recipe
from efficientrec.training.train import Trained, train

PROTOCOLS = ("temporal", "strong")
FOREVER_SECONDS = 1e12
EASE_ITEMS_MAX = 10_000  # beyond, the inverse takes minutes
EASE_RIDGE = 500.0


def train_folder(
    folder: Path | str, out: str, *, version: str, created_at: str, recipe: Recipe, progress: Progress | None = None
) -> tuple[Trained, str]:
    """Trains on everything in a folder and writes the artifact to `out`. Returns what was trained, and the digest."""
    data = of_dataset(read_dataset(folder))
    trained = train(data, recipe, version=version, progress=progress)
    digest = artifact.save(
        trained.model,
        out,
        created_at=created_at,
        window=artifact.Window(interactions=len(data), first_at=int(data.at[0]), last_at=int(data.at[-1])),
        settings=asdict(recipe),
        scores=trained.scores,
    )
    return trained, digest


def evaluate_folder(
    folder: Path | str, protocol: str, *, recipe: Recipe, part: str = "test", progress: Progress | None = None
) -> dict[str, dict[str, float]]:
    """Metrics of the model and of the baselines by a protocol (temporal, strong), in one run."""
    data = of_dataset(read_dataset(folder))
    if protocol == "temporal":
        question, trial = protocols.temporal(data), trials.later_events
    elif protocol == "strong":
        # What is asked for is drawn from all of a user's time, so nothing may fade.
        question, trial = protocols.strong(data, recipe.seed, part), trials.new_users
        recipe = replace(recipe, half_life_seconds=FOREVER_SECONDS)
    else:
        raise SettingInvalid(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    trained = train(question.train, recipe, version=f"{protocol}-{recipe.seed}", progress=progress, trial=trial)
    results = {
        "efficientrec": protocols.answer(trained.model, question),
        "popularity": protocols.answer_scores(baselines.popularity(question), question),
    }
    if protocol == "temporal":
        recent = baselines.popularity(question, recipe.popularity_half_life_seconds)
        results["recent popularity"] = protocols.answer_scores(recent, question)
    if len(data.items) <= EASE_ITEMS_MAX:
        results["ease"] = protocols.answer_scores(baselines.ease(question, EASE_RIDGE), question)
    return results
