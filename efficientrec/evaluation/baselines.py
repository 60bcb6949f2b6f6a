"""What any model must beat: popularity, and EASE (arXiv 1905.03375) over all items."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.evaluation.protocols import Question
from efficientrec.training.data import TrainingData
from efficientrec.training.popularity import decayed


def popularity(question: Question, half_life_seconds: float = math.inf) -> NDArray[np.float32]:
    """The likes of each item for every asked user (users, items); the older the fewer where a half-life is given."""
    count = decayed(question.train, half_life_seconds).astype(np.float32)
    return np.broadcast_to(count, (len(question.users), len(count)))


def ease(question: Question, ridge: float) -> NDArray[np.float32]:
    """Scores (users, items): what the asked users liked, times item-to-item weights by ridge regression."""
    liked = _likes(question.train)
    gram = (liked.T @ liked).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += np.float32(ridge)
    inverse = scipy.linalg.inv(gram, overwrite_a=True)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.asarray(_likes(question.given)[question.users] @ weights, np.float32)


def _likes(data: TrainingData) -> csr_matrix:
    shape = (data.users, len(data.items))
    kept = data.weight > 0
    return csr_matrix((data.weight[kept], (data.user[kept], data.item[kept])), shape)
