"""Local factor models in torch: what encoders/elfm.py serves, for many users at once and with gradients.

Attention to an item is, before it is normalised, the same for all users. So a step computes exp(h_c·e_i/√d) and its
product with e_c·W e_i once for each item, and the sums of all users are a sparse matrix (users, items) times these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import nn

Floats = NDArray[np.float32]


class LocalFactors(nn.Module):
    """E, C, H, W, the items' bias and the scale of scores."""

    def __init__(self, items: torch.Tensor, centres: torch.Tensor, bias: torch.Tensor, generator: torch.Generator):
        """items (items, d), centres (N, d): where E and C start. bias (items,)."""
        super().__init__()
        dim = items.shape[1]
        self.items = nn.Parameter(items.clone())
        self.centres = nn.Parameter(centres.clone())
        self.heads = nn.Parameter(torch.randn(centres.shape, generator=generator) * 0.1)
        self.projection = nn.Parameter(torch.eye(dim))
        self.bias = nn.Parameter(bias.clone())
        self.scale = nn.Parameter(torch.zeros(()))

    def users(self, weights: csr_matrix) -> torch.Tensor:
        """a_u (users, N) of the weights (users, items) with which they like."""
        met = np.unique(weights.indices)
        vectors = self.items[torch.from_numpy(met)]
        attention = vectors @ self.heads.T / vectors.shape[1] ** 0.5
        attention = torch.exp(attention - attention.detach().amax(dim=0))
        readings = vectors @ self.readers()
        sums = _Product.apply(weights[:, met], torch.cat((attention, attention * readings), dim=1))
        total, read = sums.chunk(2, dim=1)
        return torch.relu(read / (total + 1e-12))

    def readers(self) -> torch.Tensor:
        """(d, N) Wᵀ e_c."""
        return self.projection.T @ self.centres.T

    def affinities(self, places: torch.Tensor | None = None) -> torch.Tensor:
        """a_i (N, items) of all items, or of those at the places."""
        vectors = self.items if places is None else self.items[places]
        return torch.relu(self.centres @ vectors.T)


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one."""

    @staticmethod
    def forward(context: Any, left: csr_matrix, right: torch.Tensor) -> torch.Tensor:
        context.left = left
        return torch.from_numpy(left @ right.detach().numpy())

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, torch.from_numpy(context.left.T @ gradient.contiguous().numpy())
