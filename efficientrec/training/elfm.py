"""Learning local factor models (ELFM, RecSys 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.clusters import CoClusters
from efficientrec.encoders.elfm import ElfmEncoder
from efficientrec.interactions import key_of
from efficientrec.shortlists import Shortlists, cut
from efficientrec.training import loop
from efficientrec.training.checkpoints import place
from efficientrec.training.data import TrainingData
from efficientrec.training.elfm_factors import LocalFactors
from efficientrec.training.elfm_recipe import ElfmRecipe
from efficientrec.training.learned import Learned, Progress
from efficientrec.training.loop import Checkpoint, Course, Epochs
from efficientrec.training.recipe import Recipe
from efficientrec.training.weights import positive, signed
from efficientrec.vocabulary import Vocabulary

Floats = NDArray[np.float32]
OUT = -1e9  # score of what is not to be told
RATIO_FLOOR = 1e-2  # added to a score of which the logarithm is taken
SCORED_TOP = 100
SAMPLE = 2000  # users by whom scores are brought to scale
AT_ONCE = 200


def learn(
    data: TrainingData, recipe: Recipe, version: str, progress: Progress, checkpoints: Path | None = None
) -> Learned:
    """An encoder of everything in data, and its co-clusters.

    1. Factors learn to tell a part of what a user liked from the rest.
    2. Memberships are brought to a scale on which a user's strongest is 1 on average.
    3. Each item keeps its strongest co-clusters, and each co-cluster nominates what scores best for its members.
    """
    settings = recipe.elfm
    likes = positive(signed(data, None))

    def report(share: float, score: float | None) -> None:
        progress("co-clusters" if score is None else f"co-clusters, NDCG@{SCORED_TOP} {score:.4f}", share)

    progress("co-clusters", 0.0)
    factors = LocalFactors(likes, settings.dim, min(settings.clusters, len(data.items)), settings.places, recipe.seed)
    fit(factors, likes, settings, recipe.seed, progress=report, checkpoint=place(checkpoints, data, recipe))
    return learned(factors, likes, data.items, recipe, version)


def fit(
    factors: LocalFactors,
    likes: csr_matrix,
    recipe: ElfmRecipe,
    seed: int,
    *,
    progress: loop.Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Course:
    """Teaches the factors what users like: likes (users, items), how much, in (0, 1].

    Per step, of each user of a batch a part of the likes is withheld, and is to be told from the rest: were he told of
    what is given too, that would be the easiest to learn. What is given counts as neither right nor wrong.
    """
    rest, question = _held_out(likes, recipe, np.random.default_rng(seed))
    several = np.flatnonzero(np.diff(rest.indptr) >= 2)
    steps = max(recipe.round_steps, -(-len(several) * recipe.passes // (recipe.batch * recipe.rounds)))
    optimiser = torch.optim.Adam(factors.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))

    def losses(draw: np.random.Generator) -> Iterator[torch.Tensor]:
        for _ in range(steps):
            _set_rate(optimiser, recipe, steps * recipe.rounds)
            chosen = draw.choice(several, min(recipe.batch, len(several)), replace=False)
            yield _loss(factors, rest[chosen], recipe, draw)

    return loop.run(
        factors,
        optimiser,
        losses,
        Epochs(most=recipe.rounds if len(several) else 0, patience=recipe.patience, seed=seed),
        score=(lambda: ndcg(factors, question)) if len(question.users) else None,
        progress=progress,
        checkpoint=checkpoint,
    )


def _set_rate(optimiser: torch.optim.Optimizer, recipe: ElfmRecipe, steps: int) -> None:
    """By the step that the optimiser says it is at, so that a training that resumes goes on with the same rate."""
    group = optimiser.param_groups[0]
    done = float(optimiser.state[group["params"][0]].get("step", 0.0)) / steps
    if done < recipe.warm_up:
        share = (done * steps + 1) / (recipe.warm_up * steps + 1)
    else:
        share = 0.5 + 0.5 * np.cos(np.pi * (done - recipe.warm_up) / (1 - recipe.warm_up))
    group["lr"] = recipe.learning_rate * float(share)


def _loss(factors: LocalFactors, likes: csr_matrix, recipe: ElfmRecipe, draw: np.random.Generator) -> torch.Tensor:
    given = draw.random(likes.nnz) >= recipe.withheld
    told, withheld = _part(likes, given), _part(likes, ~given)
    items = likes.shape[1]
    if items <= recipe.full_items:
        places, correction = np.arange(items), np.zeros(items, np.float32)
    else:
        wanted = np.unique(withheld.indices)
        others = np.setdiff1d(draw.choice(items, recipe.negatives, replace=False), wanted)
        places = np.sort(np.concatenate((wanted, others)))
        rare = np.log((items - len(wanted)) / max(len(others), 1))  # each of the others stands for so many
        correction = np.where(np.isin(places, others), rare, 0).astype(np.float32)
    chosen = torch.from_numpy(places)
    users, affinities = factors.users(told), factors.affinities(chosen)
    scores = factors.scores(users, affinities)
    met = torch.from_numpy(told[:, places].toarray() > 0)
    target = torch.from_numpy(withheld[:, places].toarray())
    if recipe.loss == "ratio":
        weight = torch.where(met, 0.0, (scores + RATIO_FLOOR) * torch.from_numpy(np.exp(correction)))
        rated = torch.log(weight + 1e-12) - torch.log(weight.sum(dim=1, keepdim=True) + 1e-12)
    else:
        logits = (scores + factors.bias[chosen] + torch.from_numpy(correction)).masked_fill(met, OUT)
        rated = torch.log_softmax(logits, dim=1)
    loss = -(rated * target).sum(dim=1).mean()
    if recipe.smoothing:
        even = torch.where(met, 0.0, rated).sum(dim=1) / (~met).sum(dim=1)
        loss = (1 - recipe.smoothing) * loss - recipe.smoothing * (even * target.sum(dim=1)).mean()
    if recipe.sparsity:
        loss = loss + recipe.sparsity * (users.sum(dim=1).mean() + affinities.sum())
    return loss


def _part(likes: csr_matrix, kept: NDArray[np.bool_]) -> csr_matrix:
    part = csr_matrix((likes.data * kept, likes.indices, likes.indptr), likes.shape, copy=True)
    part.eliminate_zeros()
    return part


@dataclass(frozen=True, slots=True)
class _Question:
    """Users asked for what was held out. All (users, items)."""

    users: NDArray[np.intp]
    given: csr_matrix
    wanted: csr_matrix


def _held_out(likes: csr_matrix, recipe: ElfmRecipe, draw: np.random.Generator) -> tuple[csr_matrix, _Question]:
    """A fifth of the likes of some users, one at least and never all, and everything else."""
    count = np.diff(likes.indptr)
    able = np.flatnonzero(count >= 3)
    users = np.sort(draw.permutation(able)[: min(int(recipe.held_out_share * len(able)), recipe.held_out_max)])
    order = draw.random(likes.nnz)
    held = np.zeros(likes.nnz, np.bool_)
    for user in users:
        mine = np.arange(likes.indptr[user], likes.indptr[user + 1])
        held[mine[np.argsort(order[mine])][: max(1, round(0.2 * len(mine)))]] = True
    rest = _part(likes, ~held)
    return rest, _Question(users, rest[users], _part(likes, held)[users])


def ndcg(factors: LocalFactors, question: _Question) -> float:
    """NDCG of what was held out, ranked among all items that were not given."""
    discount = 1 / np.log2(np.arange(2, SCORED_TOP + 2))
    ideal = np.concatenate(([0.0], np.cumsum(discount)))
    gains = []
    for first in range(0, len(question.users), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        scores = every_score(factors, question.given[part])
        scores[question.given[part].nonzero()] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :SCORED_TOP]
        wanted = question.wanted[part].toarray() > 0
        hits = np.take_along_axis(wanted, best, axis=1)
        gains.append(hits @ discount[: hits.shape[1]] / ideal[np.minimum(wanted.sum(axis=1), SCORED_TOP)])
    return float(np.concatenate(gains).mean())


def every_score(factors: LocalFactors, weights: csr_matrix) -> Floats:
    """Scores (users, items) for who likes with these weights (users, items)."""
    with torch.no_grad():
        return np.asarray((factors.scores(factors.users(weights), factors.affinities()) + factors.bias).numpy())


def learned(factors: LocalFactors, likes: csr_matrix, items: Sequence[str], recipe: Recipe, version: str) -> Learned:
    """What serves, of factors and of the likes (users, items) that they learned from. items: their ids."""
    settings, clusters = recipe.elfm, len(factors.centres)
    kept = min(settings.clusters_kept, clusters)
    some = likes[np.random.default_rng(recipe.seed).permutation(likes.shape[0])[:SAMPLE]]
    with torch.no_grad():
        users, affinities = factors.users(some), factors.affinities()
        strongest = users.max(dim=1).values
        scale = np.float32(1 / max(float(strongest[strongest > 0].mean()), 1e-6)) if len(strongest) else np.float32(1)
        heads = factors.heads.T.numpy() / np.float32(np.sqrt(factors.items.shape[1]))
        readers = factors.readers().numpy() * scale
        bias = (factors.bias - factors.bias.mean()).numpy() * scale
        affinities, users = affinities * float(scale), users * float(scale)
        lists = nominees(factors.scores, users, affinities, bias, kept, settings.cluster_shortlist)
    places, values = strongest_places(np.ascontiguousarray(affinities.numpy().T), min(settings.places, clusters))
    everybody = np.full((len(items), 1), clusters, np.int32)
    return Learned(
        encoder=ElfmEncoder(
            key=key_of(version),
            items=Vocabulary(items),
            item_vectors=factors.items.detach().numpy().copy(),
            heads=np.ascontiguousarray(heads),
            readers=np.ascontiguousarray(readers),
            half_life_seconds=recipe.half_life_seconds,
        ),
        clusters=CoClusters(clusters, kept),
        ranking_vectors=np.ascontiguousarray(np.concatenate((bias[:, None], values), axis=1)),
        ranking_places=np.ascontiguousarray(np.concatenate((everybody, places), axis=1)),
        cluster_shortlists=lists,
    )


def nominees(
    scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    users: torch.Tensor,
    affinities: torch.Tensor,
    bias: Floats,
    kept: int,
    size: int,
) -> Shortlists:
    """The `size` items with the best scores for the mean user, a_u (users, N), of each co-cluster, counting those who
    have it among their `kept` strongest. What one is credited with is how much better it is than the next that is left
    out: the best gets the members' mean membership.

    Affinities alone nominate as well with a quarter more items: they do not know what is popular, nor which
    co-clusters go together.
    """
    clusters = users.shape[1]
    strongest = users.topk(kept, dim=1)
    chosen, p = strongest.indices.numpy().ravel(), strongest.values.numpy().ravel()
    member = csr_matrix((p, (chosen, np.repeat(np.arange(len(users)), kept))), (clusters, len(users)))
    total = np.asarray(member.sum(axis=1), np.float32)
    mean = np.asarray(member @ users.numpy(), np.float32) / np.maximum(total, 1e-9)
    every = scores(torch.from_numpy(mean), affinities).numpy() + bias
    edge = -np.partition(-every, min(size, every.shape[1] - 1), axis=1)[:, min(size, every.shape[1] - 1)]
    better = np.maximum(every - edge[:, None], 0)
    count = np.bincount(chosen[p > 0], minlength=clusters)[:, None]
    better *= total / np.maximum(count, 1) / np.maximum(better.max(axis=1, keepdims=True), 1e-9)
    return cut(np.asarray(better, np.float32), size)


def strongest_places(affinities: Floats, most: int) -> tuple[NDArray[np.int32], Floats]:
    """Places and values (items, K) of the strongest positive affinities (items, N) of each item, strongest first, -1
    and 0 where there are fewer."""
    order = np.argsort(-affinities, axis=1, kind="stable")[:, :most]
    values = np.take_along_axis(affinities, order, axis=1)
    return np.where(values > 0, order, -1).astype(np.int32), np.maximum(values, 0).astype(np.float32)
