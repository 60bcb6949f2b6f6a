"""From a user's vector to memberships: soft, overlapping clusters, of which the strongest few are kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientrec import kernels


@dataclass(frozen=True, slots=True)
class Clusters:
    """p = sigmoid(z C + b) (arXiv 2401.09693): sigmoid, not softmax, so that a user can belong to several clusters."""

    weights: NDArray[np.float32]
    """(hidden, clusters) C."""
    bias: NDArray[np.float32]
    """(clusters,) b."""
    kept: int
    """c: memberships kept for a user; the others count as zero."""

    def __len__(self) -> int:
        return len(self.bias)

    def assign(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Clusters (users, c) of the strongest memberships, strongest first, and the memberships, in [0, 1]."""
        logits = kernels.dense(vectors, self.weights, self.bias, False)
        chosen = np.empty((len(vectors), self.kept), np.int32)
        memberships = np.empty((len(vectors), self.kept), np.float32)
        kernels.strongest(logits, chosen, memberships)
        return chosen, memberships
