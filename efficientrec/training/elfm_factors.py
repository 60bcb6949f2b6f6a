"""Local factor models in torch: what encoders/elfm.py serves, for many users at once and with gradients.

Attention to an item is, before it is normalised, the same for all users. So a step computes exp(h_c·e_i/√d) and its
product with e_c·W e_i once for each item, and the sums of all users are a sparse matrix (users, items) times these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
from scipy.sparse.linalg import svds
from torch import nn

from efficientrec.training.min_sum import min_sum

Floats = NDArray[np.float32]
GROUP_ROUNDS = 10
POPULARITY_POWER = -0.25  # of an item's users: neither do the most popular items alone make the first directions


class LocalFactors(nn.Module):
    """E, C, H, W and a bias for each item, which is its affinity to a co-cluster that everybody belongs to."""

    def __init__(self, likes: csr_matrix, dim: int, clusters: int, kept: int, seed: int) -> None:
        """kept: K. Items start where the singular vectors of likes (users, items) put them, co-clusters as groups of
        items, attention even, the bias as popularity."""
        super().__init__()
        self.kept = kept
        draw = np.random.default_rng(seed)
        popularity = np.asarray(likes.sum(axis=0), np.float32).ravel()
        items = _directions(likes, popularity, dim, draw)
        centres = _groups(items, popularity, clusters, draw)
        self.items = nn.Parameter(torch.from_numpy(items))
        self.centres = nn.Parameter(torch.from_numpy(centres))
        self.heads = nn.Parameter(torch.from_numpy(draw.normal(0, 0.1, centres.shape).astype(np.float32)))
        self.projection = nn.Parameter(torch.eye(dim))
        self.bias = nn.Parameter(torch.from_numpy(np.log((popularity + 1) / (popularity.sum() + len(popularity)))))

    def users(self, weights: csr_matrix) -> torch.Tensor:
        """a_u (users, N) of the weights (users, items) with which they like."""
        met = np.unique(weights.indices)
        vectors = self.items[torch.from_numpy(met)]
        attention = vectors @ self.heads.T / vectors.shape[1] ** 0.5
        attention = torch.exp(attention - attention.detach().amax(dim=0)) if len(met) else attention
        sums: torch.Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            weights[:, met], torch.cat((attention, attention * (vectors @ self.readers())), dim=1)
        )
        total, read = sums.chunk(2, dim=1)
        return torch.relu(read / (total + 1e-20))

    def readers(self) -> torch.Tensor:
        """(d, N) Wᵀ e_c."""
        return self.projection.T @ self.centres.T

    def affinities(self, places: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """a_i (N, items) of the items at the places: the K strongest of each, which are all that is served."""
        values = torch.relu(self.centres @ self.items[places].T)
        weaker = len(values) - self.kept
        if weaker <= 0:
            return values
        least = np.partition(values.detach().numpy(), weaker, axis=0)[weaker]
        return values * (values >= torch.from_numpy(least))

    def scores(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(users, items) without the bias, of a_u (users, N) and a_i (N, items)."""
        return min_sum(users, items)


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one."""

    @staticmethod
    def forward(context: Any, left: csr_matrix, right: torch.Tensor) -> torch.Tensor:
        context.left = left
        return torch.from_numpy(left @ right.detach().numpy())

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, torch.from_numpy(context.left.T @ gradient.contiguous().numpy())


def _directions(likes: csr_matrix, popularity: Floats, dim: int, draw: np.random.Generator) -> Floats:
    """(items, dim), of mean length 1 over what was liked at all."""
    found = np.zeros((likes.shape[1], dim))
    known = min(dim, min(likes.shape) - 1)
    if known < 1:
        return found.astype(np.float32)
    spread = diags_array((popularity + 1) ** POPULARITY_POWER)
    _, strength, right = svds(
        csr_matrix(likes @ spread, dtype=np.float64), k=known, v0=draw.normal(size=min(likes.shape))
    )
    found[:, :known] = right.T * np.sqrt(strength / max(strength.max(), 1e-12))
    length = np.linalg.norm(found, axis=1)
    return np.asarray(found / max(length[popularity > 0].mean(), 1e-12), np.float32)


def _groups(items: Floats, popularity: Floats, count: int, draw: np.random.Generator) -> Floats:
    """(count, dim) unit vectors: spherical k-means of the items that were liked, from items at random."""
    liked = items[popularity > 0]
    unit = liked / np.maximum(np.linalg.norm(liked, axis=1, keepdims=True), 1e-8)
    centres = unit[draw.choice(len(unit), count, replace=len(unit) < count)]
    for _ in range(GROUP_ROUNDS):
        nearest = (unit @ centres.T).argmax(axis=1)
        members = csr_matrix((np.ones(len(unit), np.float32), (nearest, np.arange(len(unit)))), (count, len(unit)))
        total = np.asarray(members @ unit)
        empty = np.flatnonzero(np.bincount(nearest, minlength=count) == 0)
        total[empty] = unit[draw.choice(len(unit), len(empty))]
        centres = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-8)
    return np.asarray(centres, np.float32)
