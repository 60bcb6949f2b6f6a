"""Shortlists of clusters: what their members like, shrunk towards what everybody likes.

  s(c, i) = (Σ_u p_uc y_ui + a μ_i) / (Σ_u p_uc + a),   μ_i = Σ_u y_ui / users

over the memberships that are kept, as in serving. A cluster of few members says what is popular, one of many what is
its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.shortlists import Shortlists, cut


def shortlists(
    chosen: NDArray[np.int32],
    memberships: NDArray[np.float32],
    clusters: int,
    weights: csr_matrix,
    prior: float,
    size: int,
) -> Shortlists:
    """chosen, memberships (users, c): `Clusters.assign`. weights (users, items): signed."""
    users, kept = chosen.shape
    p = csr_matrix((memberships.ravel(), chosen.ravel(), np.arange(0, users * kept + 1, kept)), (users, clusters))
    mean = np.asarray(weights.sum(axis=0), np.float32).ravel() / np.float32(max(users, 1))
    members = np.asarray(p.sum(axis=0), np.float32).ravel()
    score = np.asarray((p.T @ weights).toarray(), np.float32)
    score = (score + np.float32(prior) * mean) / (members + np.float32(prior))[:, None]
    return cut(score, size)
