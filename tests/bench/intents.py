"""What the intents of `elcrec` are worth: each way to learn them beside the others, leave one out, all items ranked.

Learned from all but the last two items of each user; the last but one is what `validation` asks for, the last what
`test` does. Of each variant: the encoder alone (every item ranked by its score), the intents alone (votes of the kept
ones by their shortlists), how many intents are in use (the perplexity of which is nearest), and how near users are to
theirs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.clusters import Clusters
from efficientrec.datasets import read_dataset
from efficientrec.evaluation import histories
from efficientrec.model import Model
from efficientrec.training.data import TrainingData, of_dataset
from efficientrec.training.elcrec_recipe import ElcrecRecipe
from efficientrec.training.learned import Progress
from efficientrec.training.recipe import Recipe
from efficientrec.training.train import build
from efficientrec.training.weights import signed

AT_ONCE = 1000
NOTHING = ElcrecRecipe(clustering="none", contrast_weight=0.0)
VARIANTS: dict[str, ElcrecRecipe] = {
    "next item only, k-means afterwards": NOTHING,
    "contrast": ElcrecRecipe(clustering="none"),
    "published": ElcrecRecipe(clustering="published", contrast_weight=0.0),
    "published, contrast": ElcrecRecipe(clustering="published"),
    "assigned": ElcrecRecipe(clustering="assigned", contrast_weight=0.0),
    "assigned, contrast": ElcrecRecipe(clustering="assigned"),
    "assigned, centres frozen": ElcrecRecipe(clustering="assigned", contrast_weight=0.0, centres="frozen"),
    "assigned, centres random": ElcrecRecipe(clustering="assigned", contrast_weight=0.0, centres="random"),
}


def measure(folder: Path, names: list[str], seed: int, epochs: int, say: Progress) -> Iterator[dict[str, Any]]:
    """One row for each variant."""
    data = of_dataset(read_dataset(folder))
    left = _left(data)
    train, before_last = data.chosen(left >= 2), data.chosen(left >= 1)
    for name in names:
        variant = VARIANTS[name]
        settings = replace(variant, sequence=replace(variant.sequence, epochs=epochs))
        started = time.perf_counter()
        recipe = Recipe(encoder="elcrec", seed=seed, elcrec=settings)
        model = build(train, recipe, name, say).model
        seconds = time.perf_counter() - started
        row: dict[str, Any] = {"variant": name, "seed": seed, "seconds": round(seconds)}
        for part, given, target in (("validation", train, left == 1), ("test", before_last, left == 0)):
            row[part] = _scores(model, given, data.chosen(target))
        yield row


def _left(data: TrainingData) -> NDArray[np.int64]:
    """(events,) how many of its user's interactions come after each."""
    order = np.argsort(data.user, kind="stable")
    count = np.bincount(data.user, minlength=data.users)
    left = np.empty(len(data), np.int64)
    left[order] = np.repeat(np.cumsum(count), count) - 1 - np.arange(len(data))
    return left


def _scores(model: Model, given: TrainingData, wanted: TrainingData) -> dict[str, float]:
    clusters, lists = model.clusters, model.cluster_shortlists
    assert isinstance(clusters, Clusters)
    held = lists.items >= 0
    owner = np.nonzero(held)[0]
    credit = csr_matrix((lists.scores[held], (owner, lists.items[held])), (len(clusters), len(model.items)))
    rows = histories.all_of(model, given)
    vector, taste = model.encoder.vector(rows), model.encoder.taste(rows)
    chosen, p = clusters.assign(vector)
    users, kept = chosen.shape
    votes = csr_matrix((p.ravel(), chosen.ravel(), np.arange(0, users * kept + 1, kept)), (users, len(clusters)))
    likeness = vector @ (clusters.weights / np.linalg.norm(clusters.weights, axis=0))
    use = np.bincount(likeness.argmax(axis=1), minlength=len(clusters)) / users
    met = signed(given, None)
    ranks: dict[str, list[NDArray[np.float64]]] = {"encoder": [], "intents": []}
    for first in range(0, len(wanted), AT_ONCE):
        user, item = wanted.user[first : first + AT_ONCE], wanted.item[first : first + AT_ONCE]
        exact = taste[user] @ model.ranking_vectors.T
        for name, scores in (("encoder", exact), ("intents", (votes[user] @ credit).toarray())):
            scores[met[user].nonzero()] = -np.inf
            true = scores[np.arange(len(user)), item][:, None]
            ranks[name].append((scores > true).sum(axis=1) + ((scores == true).sum(axis=1) - 1) / 2 + 1)
    found: dict[str, float] = {}
    for name, parts in ranks.items():
        rank = np.concatenate(parts)
        for size in (5, 10, 20):
            found[f"{name} hr@{size}"] = float((rank <= size).mean())
            found[f"{name} ndcg@{size}"] = float(np.where(rank <= size, 1 / np.log2(rank + 1), 0).mean())
    found["intents in use"] = float(np.exp(-(use[use > 0] * np.log(use[use > 0])).sum()))
    found["likeness"] = float(likeness.max(axis=1).mean())
    return found
