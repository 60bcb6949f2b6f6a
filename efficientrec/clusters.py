"""From a user's vector to memberships: soft, overlapping clusters, of which the strongest few are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels


class Assignment(Protocol):
    """How a vector becomes memberships."""

    @property
    def kept(self) -> int:
        """c: memberships kept for a user; the others count as zero."""

    def __len__(self) -> int:
        """How many clusters there are."""

    def assign(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Clusters (users, c) of the strongest memberships, strongest first, and the memberships, not negative."""


@dataclass(frozen=True, slots=True)
class CoClusters:
    """a = max(z, 0) (ELFM, RecSys 2021, eq. 5): the vector, not negative, is the memberships."""

    count: int
    kept: int

    def __len__(self) -> int:
        return self.count

    def assign(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        chosen = np.empty((len(vectors), self.kept), np.int32)
        memberships = np.empty((len(vectors), self.kept), np.float32)
        kernels.greatest(vectors, chosen, memberships)
        return chosen, memberships


@dataclass(frozen=True, slots=True)
class Clusters:
    """p = sigmoid(z C + b) (arXiv 2401.09693): sigmoid, not softmax, so that a user can belong to several clusters."""

    weights: NDArray[np.float32]
    """(hidden, clusters) C."""
    bias: NDArray[np.float32]
    """(clusters,) b."""
    kept: int

    def __len__(self) -> int:
        return len(self.bias)

    def assign(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        logits = kernels.dense(vectors, self.weights, self.bias, False)
        chosen = np.empty((len(vectors), self.kept), np.int32)
        memberships = np.empty((len(vectors), self.kept), np.float32)
        kernels.strongest(logits, chosen, memberships)
        return chosen, memberships
