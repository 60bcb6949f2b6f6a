"""Learning the sequence encoder and its intents (ELCRec, arXiv 2401.05975)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from efficientrec.clusters import Clusters
from efficientrec.interactions import key_of
from efficientrec.training.checkpoints import place
from efficientrec.training.data import TrainingData
from efficientrec.training.intents import IntentNet
from efficientrec.training.learned import Learned, Progress
from efficientrec.training.recipe import Recipe
from efficientrec.training.sequence import SequenceNet, Sequences, learn_net, sequences_of, tokens_of
from efficientrec.vocabulary import Vocabulary

SURE = 4.0  # logit of the strongest membership, for the median user: 0.98
SAMPLE = 2000  # users by whom scores and memberships are brought to scale


def learn(
    data: TrainingData, recipe: Recipe, version: str, progress: Progress, checkpoints: Path | None = None
) -> Learned:
    """An encoder of everything in data, and the intents that its users gather around.

    1. Net and intents learn together; intents.py has the losses.
    2. Scores are brought to the scale on which votes are added to them.
    3. A membership is the sigmoid of a user's likeness to a centre: SURE for the nearest one, and even for the first
       that is not kept, both for the median user.
    """
    settings, sequences = recipe.elcrec, sequences_of(data)
    several = int((sequences.lengths >= 2).sum())
    clusters = int(np.clip(several // recipe.users_per_cluster, 2 * 2, settings.clusters))
    kept = min(recipe.clusters_kept, clusters // 2)
    net = SequenceNet(tokens_of(data, settings.sequence), sequences.items, settings.sequence, recipe.seed)
    intents = IntentNet(net, clusters, settings, recipe.seed)

    def report(share: float, score: float | None) -> None:
        progress("sequences" if score is None else f"sequences, NDCG@20 {score:.4f}", share)

    progress("sequences", 0.0)
    learn_net(
        net,
        intents,
        sequences,
        recipe.seed,
        beside=intents if settings.intents else None,
        progress=report,
        checkpoint=place(checkpoints, data, recipe),
    )

    draw = np.random.default_rng(recipe.seed)
    if settings.centres != "random" and int(intents.epochs) <= settings.warm_epochs:
        intents.group(sequences, draw)  # the best epoch was before there were any
    states = net.last_states(_sample(sequences, draw))
    vectors = net.ranking_vectors()
    scale = settings.spread / max(float(net.scores(states, vectors).std(dim=1).mean()), 1e-6)
    encoder = net.encoder(key_of(version), Vocabulary(data.items), scale)
    return Learned(
        encoder=encoder,
        clusters=memberships(states, intents.centres.detach(), kept),
        ranking_vectors=np.ascontiguousarray(vectors.numpy()),
        ranking_places=np.zeros((len(data.items), 0), np.int32),
    )


def memberships(states: torch.Tensor, centres: torch.Tensor, kept: int) -> Clusters:
    """Step 3, of the states of some users."""
    directions = functional.normalize(centres, dim=1)
    likeness = functional.normalize(states, dim=1) @ directions.T
    strongest = likeness.topk(min(kept + 1, len(centres)), dim=1).values
    even = float(strongest[:, -1].median())
    steep = SURE / max(float((strongest[:, 0] - strongest[:, -1]).median()), 1e-3)
    weights: NDArray[np.float32] = np.ascontiguousarray((steep * directions).T.numpy())
    return Clusters(weights, np.full(len(centres), -steep * even, np.float32), kept)


def _sample(sequences: Sequences, draw: np.random.Generator) -> Sequences:
    return sequences.of(np.sort(draw.permutation(np.flatnonzero(sequences.lengths > 0))[:SAMPLE]))
