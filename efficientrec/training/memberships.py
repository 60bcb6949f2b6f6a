"""The membership head: from a profile to soft clusters, learned so that two halves of what one user did agree.

Per batch of users, each one's interactions fall at random into two halves a and b; each half becomes the state that the
encoder would keep, and passes through the very network that serves (encoders/efficientrec.py). Three losses:

1. *Triplet* (arXiv 2401.09693): max(margin + d(p_a, p_b) - d(p_a, p_n), 0), d the cosine distance of memberships and n the
   hardest other user in the batch who is still further away than one's own half (semi-hard; where there is none, the furthest
   does no harm).
2. *Items*: memberships of a must predict the likes of b, through clusters that own a point in the space of the ranking
   vectors. This is what makes clusters worth voting: triplets alone only ask that users can be told apart.
3. *Balance*: each cluster is used equally over a batch, and each user uses few. Without it all users end in the same few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

from efficientrec.errors import TrainingDiverged
from efficientrec.training.recipe import Recipe

Floats = NDArray[np.float32]


class MembershipHead(nn.Module):
    """The network of `EfficientRecEncoder.vector` and `Clusters.assign`, number for number."""

    def __init__(self, inputs: int, hidden: int, clusters: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden_weights = _uniform((inputs, hidden), generator)
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        self.vector_weights = _uniform((hidden, hidden), generator)
        self.vector_bias = nn.Parameter(torch.zeros(hidden))
        self.cluster_weights = _uniform((hidden, clusters), generator)
        self.cluster_bias = nn.Parameter(torch.full((clusters,), -2.0))

    def vector(self, inputs: torch.Tensor) -> torch.Tensor:
        """(users, hidden)"""
        hidden = torch.relu(inputs @ self.hidden_weights + self.hidden_bias)
        return torch.relu(hidden @ self.vector_weights + self.vector_bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (users, clusters) of the memberships."""
        logits: torch.Tensor = self.vector(inputs) @ self.cluster_weights + self.cluster_bias
        return logits


def _uniform(shape: tuple[int, int], generator: torch.Generator) -> nn.Parameter:
    bound = (6 / shape[0]) ** 0.5
    return nn.Parameter((torch.rand(shape, generator=generator) * 2 - 1) * bound)


@dataclass(frozen=True, slots=True)
class Memberships:
    """The learned arrays, as the encoder and the clusters take them."""

    hidden_weights: Floats
    hidden_bias: Floats
    vector_weights: Floats
    vector_bias: Floats
    cluster_weights: Floats
    cluster_bias: Floats
    trait_vectors: Floats
    """(traits, t)"""


def fit(
    weights: csr_matrix,
    traits: csr_matrix,
    item_vectors: Floats,
    ranking_vectors: Floats,
    clusters: int,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> Memberships:
    """weights (users, items): signed, decayed. traits (users, traits): each user's, adding up to 1. clusters: how many."""
    generator = torch.Generator().manual_seed(recipe.seed)
    draw = np.random.default_rng(recipe.seed)
    dim, known = item_vectors.shape[1], traits.shape[1]
    trait_dim = recipe.trait_dim if known else 0
    head = MembershipHead(2 * dim + 2 + trait_dim, recipe.hidden, clusters, generator)
    trait_table = nn.Parameter(torch.randn((known, trait_dim), generator=generator) * 0.1)
    # Means of f_i are small numbers; the first layer meets them at unit size, and takes the scale into its weights after.
    scale = torch.ones(2 * dim + 2 + trait_dim)
    spread = _inputs(weights, item_vectors).std(axis=0)
    scale[: 2 * dim + 2] = torch.from_numpy(1 / np.maximum(spread, 0.1 * spread.mean() + 1e-8))

    liked = csr_matrix((np.maximum(weights.data, 0), weights.indices, weights.indptr), weights.shape)
    count = np.asarray(liked.sum(axis=0)).ravel()
    targets = np.sort(np.argsort(-count, kind="stable")[: recipe.target_items])
    points = torch.from_numpy(np.ascontiguousarray(ranking_vectors[targets]))
    points = points / points.norm(dim=1).mean().clamp_min(1e-8)
    popularity = nn.Parameter(torch.log(torch.from_numpy(count[targets].astype(np.float32)) + 1.0))
    centres = nn.Parameter(torch.randn((clusters, dim), generator=generator) * (1.0 / dim**0.5))

    parameters = [*head.parameters(), trait_table, popularity, centres]
    optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    eligible = np.flatnonzero(np.diff(weights.indptr) >= 2)
    for step in range(recipe.steps):
        chosen = draw.choice(eligible, min(recipe.batch, len(eligible)), replace=False)
        mine = weights[chosen]
        # Halves of any size from a tenth up: the head must read short histories as well as long ones.
        part = draw.random(mine.nnz) < np.repeat(draw.uniform(0.1, 0.9, len(chosen)), np.diff(mine.indptr))
        first, second = _masked(mine, part), _masked(mine, ~part)
        traits_here = torch.from_numpy(traits[chosen].toarray()) @ trait_table
        states = [
            torch.cat((torch.from_numpy(_inputs(half, item_vectors)), traits_here), dim=1) * scale
            for half in (first, second)
        ]
        logits = [head(state) for state in states]
        p = [torch.sigmoid(each) for each in logits]
        wanted = np.maximum(second[:, targets].toarray(), 0).astype(np.float32)
        loss = (
            _triplet(p[0], p[1], recipe.margin)
            + recipe.item_loss * _item_loss(p[0], torch.from_numpy(wanted), centres, points, popularity)
            + recipe.balance * _imbalance(torch.cat(p), recipe.clusters_kept)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 20 == 19 or step == recipe.steps - 1:
            if not bool(torch.isfinite(loss)):
                raise TrainingDiverged(f"the loss of the memberships is {loss.item()} at step {step}: lower learning_rate")
            progress((step + 1) / recipe.steps)
    with torch.no_grad():
        head.hidden_weights *= scale[:, None]
    arrays = {name: value.detach().numpy().copy() for name, value in head.named_parameters()}
    return Memberships(**arrays, trait_vectors=trait_table.detach().numpy().copy())


def _masked(weights: csr_matrix, kept: NDArray[np.bool_]) -> csr_matrix:
    return csr_matrix((weights.data * kept, weights.indices, weights.indptr), weights.shape)


def _inputs(weights: csr_matrix, item_vectors: Floats) -> Floats:
    """What `EfficientRecEncoder.vector` reads (users, 2d + 2), without traits."""
    up = csr_matrix((np.maximum(weights.data, 0), weights.indices, weights.indptr), weights.shape)
    down = csr_matrix((np.maximum(-weights.data, 0), weights.indices, weights.indptr), weights.shape)
    liked = np.asarray(up.sum(axis=1), np.float32).reshape(-1, 1)
    disliked = np.asarray(down.sum(axis=1), np.float32).reshape(-1, 1)
    return np.concatenate(
        (
            (up @ item_vectors) / (1 + liked),
            (down @ item_vectors) / (1 + disliked),
            np.log1p(liked),
            np.log1p(disliked),
        ),
        axis=1,
    ).astype(np.float32)


def _triplet(first: torch.Tensor, second: torch.Tensor, margin: float) -> torch.Tensor:
    one, other = nn.functional.normalize(first, dim=1), nn.functional.normalize(second, dim=1)
    distance = 1 - one @ other.T
    own = distance.diagonal()
    users = len(own)
    others = distance.detach().clone()
    others.fill_diagonal_(torch.inf)
    others[others <= own.detach()[:, None]] = torch.inf
    nearest = others.argmin(dim=1)
    semi_hard = torch.isfinite(others[torch.arange(users), nearest])
    negative = distance[torch.arange(users), nearest]
    mean = distance.sum() / max(users * users, 1)
    return torch.relu(margin + own - torch.where(semi_hard, negative, mean)).mean()


def _item_loss(
    p: torch.Tensor, wanted: torch.Tensor, centres: torch.Tensor, points: torch.Tensor, popularity: torch.Tensor
) -> torch.Tensor:
    """Multinomial log-loss of the other half's likes, under scores p · (centres · points) + popularity."""
    logits = (p @ centres) @ points.T * 10 + popularity
    count = wanted.sum(dim=1)
    told = (wanted * torch.log_softmax(logits, dim=1)).sum(dim=1) / count.clamp_min(1e-6)
    held = (count > 0).float()
    return -(told * held).sum() / held.sum().clamp_min(1)


def _imbalance(p: torch.Tensor, kept: int) -> torch.Tensor:
    """How far the use of clusters is from equal (0: equal), and how far a user's memberships are from adding up to `kept`."""
    share = p / p.sum(dim=1, keepdim=True).clamp_min(1e-6)
    use = share.mean(dim=0)
    uneven = (use * torch.log(use.clamp_min(1e-9) * p.shape[1])).sum()
    return uneven + 0.1 * torch.log(p.sum(dim=1).clamp_min(1e-6) / kept).square().mean()
