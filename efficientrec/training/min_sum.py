"""Min-sum pooling for training: s_ui = Σ_c min(a_u^c, a_i^c), and where its gradient goes.

Written out as loops over items, which are vectors to the processor; torch would fill (users, items, N) floats for it.
Co-clusters in which a user has no part are passed over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCK = 256  # items whose affinities stay in the second cache while all the users of a batch pass over them

_compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})


@_compiled
def _forward(users: Floats, items: Floats, scores: Floats) -> None:
    """users (B, N), items (N, I), none negative; scores (B, I) is filled."""
    count = items.shape[1]
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        for user in range(len(users)):
            score = scores[user, first:last]
            score[:] = 0
            for cluster in range(users.shape[1]):
                most = users[user, cluster]
                if most > 0:
                    part = items[cluster, first:last]
                    for item in range(last - first):
                        score[item] += min(most, part[item])


@_compiled
def _backward(users: Floats, items: Floats, gradient: Floats, to_users: Floats, to_items: Floats) -> None:
    """gradient (B, I) of the scores goes to whichever is smaller: to_users (B, N) and to_items (N, I), zeros before."""
    count = items.shape[1]
    for first in range(0, count, BLOCK):
        last = min(first + BLOCK, count)
        for user in range(len(users)):
            pull = gradient[user, first:last]
            whole = np.float32(0)
            for item in range(last - first):
                whole += pull[item]
            for cluster in range(users.shape[1]):
                most = users[user, cluster]
                if most > 0:
                    part, target = items[cluster, first:last], to_items[cluster, first:last]
                    taken = np.float32(0)
                    for item in range(last - first):
                        given = pull[item] if part[item] <= most else np.float32(0)
                        target[item] += given
                        taken += given
                    to_users[user, cluster] += whole - taken


class _MinSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        users, items = users.contiguous(), items.contiguous()
        scores = np.empty((len(users), items.shape[1]), np.float32)
        _forward(users.detach().numpy(), items.detach().numpy(), scores)
        context.save_for_backward(users, items)
        return torch.from_numpy(scores)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        users, items = context.saved_tensors
        to_users, to_items = torch.zeros_like(users), torch.zeros_like(items)
        _backward(users.numpy(), items.numpy(), gradient.contiguous().numpy(), to_users.numpy(), to_items.numpy())
        return to_users, to_items


def min_sum(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Scores (B, I) of user affinities (B, N) and item affinities (N, I), none negative.

    >>> min_sum(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.2], [0.7]])).item()
    0.699999988079071
    """
    scores: torch.Tensor = _MinSum.apply(users, items)  # type: ignore[no-untyped-call]
    return scores
