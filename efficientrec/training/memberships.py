"""The membership head: from a profile to soft clusters, learned so that two halves of what one user did agree.

1. Clusters start as the groups that tastes fall into (spherical k-means): every cluster has users from the start,
   which the losses of published systems do not see to by themselves (a mean of centres is all that some of them depend
   on).
2. Per batch of users, each one's interactions fall at random into two halves a and b; each half becomes the state that
   the encoder would keep, and passes through the very network that serves (encoders/efficientrec.py). Two losses:
   - *Triplet* (arXiv 2401.09693): max(margin + d(p_a, p_b) - d(p_a, p_n), 0), d the cosine distance of memberships and
     n the nearest other user in the batch who is further away than one's own half (semi-hard).
   - *Groups*: memberships of either half should be those of the whole user in the groups. This is what keeps clusters
     apart, evenly used and worth voting: triplets alone only ask that users can be told apart.
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
GROUP_ROUNDS = 15  # of k-means: later ones move a handful of users


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
    clusters: int,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> Memberships:
    """weights (users, items): signed, decayed. traits (users, traits): each user's, adding up to 1. clusters: how
    many."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for each other's threads: 16 ms a step against 200
    try:
        return _fit(weights, traits, item_vectors, clusters, recipe, progress)
    finally:
        torch.set_num_threads(threads)


def _fit(
    weights: csr_matrix,
    traits: csr_matrix,
    item_vectors: Floats,
    clusters: int,
    recipe: Recipe,
    progress: Callable[[float], None],
) -> Memberships:
    generator = torch.Generator().manual_seed(recipe.seed)
    draw = np.random.default_rng(recipe.seed)
    dim, known = item_vectors.shape[1], traits.shape[1]
    trait_dim = recipe.trait_dim if known else 0
    head = MembershipHead(2 * dim + 2 + trait_dim, recipe.hidden, clusters, generator)
    trait_table = nn.Parameter(torch.randn((known, trait_dim), generator=generator) * 0.1)
    # Means of f_i are small numbers, most of which all users share: the first layer learns from what differs, at unit
    # size, and takes centre and scale into its own arrays afterwards.
    scale, centre = torch.ones(2 * dim + 2 + trait_dim), torch.zeros(2 * dim + 2 + trait_dim)
    most = draw.permutation(np.flatnonzero(np.diff(weights.indptr) >= 2))[: recipe.head_users]
    mine, traits = weights[most], traits[most]
    whole = sums(mine, item_vectors)
    seen = inputs(whole)
    spread = seen.std(axis=0)
    spread = np.maximum(spread, 0.1 * spread[:-2].mean() + 1e-8)
    spread[-2:] = np.maximum(spread[-2:], 0.5)  # of log counts: users may be alike here, and halves of them are not
    scale[: 2 * dim + 2] = torch.from_numpy(1 / spread)
    centre[: 2 * dim + 2] = torch.from_numpy(seen.mean(axis=0))
    groups = torch.from_numpy(_groups(whole[:, :dim], clusters, min(recipe.clusters_kept, clusters // 2), draw))

    optimiser = torch.optim.Adam([*head.parameters(), trait_table], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    for step in range(recipe.steps):
        chosen = draw.choice(len(most), min(recipe.batch, len(most)), replace=False)
        batch = mine[chosen]
        # Halves of any size from a tenth up: the head must read short histories as well as long ones.
        part = draw.random(batch.nnz) < np.repeat(draw.uniform(0.1, 0.9, len(chosen)), np.diff(batch.indptr))
        first = sums(csr_matrix((batch.data * part, batch.indices, batch.indptr), batch.shape), item_vectors)
        traits_here = torch.from_numpy(traits[chosen].toarray()) @ trait_table
        logits = [
            head((torch.cat((torch.from_numpy(inputs(state)), traits_here), dim=1) - centre) * scale)
            for state in (first, whole[chosen] - first)
        ]
        p = [torch.sigmoid(each) for each in logits]
        agreement = [
            nn.functional.binary_cross_entropy_with_logits(each, groups[chosen], reduction="none").sum(dim=1).mean()
            for each in logits
        ]
        loss = recipe.triplet_loss * _triplet(p[0], p[1], recipe.margin) + recipe.group_loss * (
            agreement[0] + agreement[1]
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
        if step % 20 == 19 or step == recipe.steps - 1:
            if not bool(torch.isfinite(loss)):
                raise TrainingDiverged(
                    f"the loss of the memberships is {loss.item()} at step {step}: lower learning_rate"
                )
            progress((step + 1) / recipe.steps)
    with torch.no_grad():
        head.hidden_weights.mul_(scale[:, None])
        if not recipe.dislikes:
            for first, last in ((dim, 2 * dim), (2 * dim + 1, 2 * dim + 2)):
                head.hidden_weights[first:last] = 0
        head.hidden_bias.sub_(centre @ head.hidden_weights)
    arrays = {name: value.detach().numpy().copy() for name, value in head.named_parameters()}
    return Memberships(**arrays, trait_vectors=trait_table.detach().numpy().copy())


def sums(weights: csr_matrix, item_vectors: Floats) -> Floats:
    """The states (users, 2d + 2) that the encoder would keep."""
    likes, dislikes = weights.copy(), weights.copy()
    likes.data, dislikes.data = np.maximum(weights.data, 0), np.maximum(-weights.data, 0)
    sides = (likes, dislikes)
    for side in sides:
        side.eliminate_zeros()  # in place, which is why they are copies
    totals = [np.asarray(side.sum(axis=1), np.float32).reshape(-1, 1) for side in sides]
    return np.concatenate([*(np.asarray(side @ item_vectors, np.float32) for side in sides), *totals], axis=1)


def inputs(state: Floats) -> Floats:
    """What `EfficientRecEncoder.vector` makes of states, without traits."""
    dim = (state.shape[1] - 2) // 2
    weight = np.maximum(state[:, -2:], 0)
    return np.concatenate(
        (state[:, :dim] / (1 + weight[:, :1]), state[:, dim : 2 * dim] / (1 + weight[:, 1:]), np.log1p(weight)), axis=1
    ).astype(np.float32)


def _groups(tastes: Floats, clusters: int, kept: int, draw: np.random.Generator) -> Floats:
    """Soft memberships (users, clusters) of tastes in their groups: 1 for the nearest, and as steep from there that a
    user spreads over about `kept` groups."""
    unit = tastes / np.maximum(np.linalg.norm(tastes, axis=1, keepdims=True), 1e-8)
    centres = unit[draw.choice(len(unit), clusters, replace=len(unit) < clusters)]
    for _ in range(GROUP_ROUNDS):
        nearest = (unit @ centres.T).argmax(axis=1)
        total = np.asarray(
            csr_matrix((np.ones(len(unit), np.float32), (nearest, np.arange(len(unit)))), (clusters, len(unit))) @ unit
        )
        empty = np.flatnonzero(np.bincount(nearest, minlength=clusters) == 0)
        total[empty] = unit[draw.choice(len(unit), len(empty))]
        centres = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-8)
    likeness = unit @ centres.T
    likeness -= likeness.max(axis=1, keepdims=True)
    gentle, steep = 0.1, 1000.0
    for _ in range(30):
        middle = (gentle * steep) ** 0.5
        share = np.exp(middle * likeness)
        share /= share.sum(axis=1, keepdims=True)
        spread = float(np.exp(-(share * np.log(share + 1e-12)).sum(axis=1)).mean())
        gentle, steep = (middle, steep) if spread > kept else (gentle, middle)
    return np.asarray(np.exp(steep * likeness), np.float32)


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
