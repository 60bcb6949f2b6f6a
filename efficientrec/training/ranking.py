"""The ranking head in closed form: item vectors f_i and ranking vectors h_i, so that a sum of f_i times h_j says how
well item j fits what a user did.

1. *Item-to-item weights* B (neighbours.py).
2. *What descriptions can say of B*: v_i, the best rank-`feature_dim` approximation of B by a linear map of an item's
   tokens.
3. *What is left*: e_i, the best rank-`item_dim` approximation of B minus that. Both are weighted by what users really
   did: it is X B that is approximated, not B (see papers on low-rank EASE).
4. f_i = concat(v_i, e_i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from efficientrec.training.neighbours import Weights
from efficientrec.training.recipe import Recipe

Floats = NDArray[np.float32]
Product = Callable[[Floats], Floats]

POWER_STEPS = 4  # of the randomised singular vectors; more change nothing in the third digit
OVERSAMPLING = 20


@dataclass(frozen=True, slots=True)
class Ranking:
    """What the closed form gives."""

    item_vectors: Floats
    """(items, d) f_i."""
    ranking_vectors: Floats
    """(items, d) h_i."""


def fit(weights: Weights, tokens: scipy.sparse.csr_matrix, recipe: Recipe) -> Ranking:
    """tokens (items, tokens): `token_matrix`."""
    times, times_transposed, likes, items = weights.times, weights.times_transposed, weights.rows, weights.items
    generator = np.random.default_rng(recipe.seed)
    spread = np.sqrt(np.asarray(likes.power(2).sum(axis=0), np.float32).ravel())  # √ of the diagonal of XᵀX
    informed = scipy.sparse.diags_array(spread) @ tokens
    # v = T W with W from a ridge regression of B's rows on tokens, rows weighted by how often they are used.
    gram = (informed.T @ informed).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += np.float32(1.0)
    solve = scipy.linalg.cho_factor(gram, lower=True) if len(gram) else None

    def projected(thin: Floats) -> Floats:
        if solve is None:
            return np.zeros_like(thin)
        right = informed.T @ (spread[:, None] * times(thin))
        return np.asarray(informed @ scipy.linalg.cho_solve(solve, right), np.float32)

    def projected_transposed(thin: Floats) -> Floats:
        if solve is None:
            return np.zeros_like(thin)
        back = scipy.linalg.cho_solve(solve, informed.T @ thin)
        return times_transposed(np.asarray(spread[:, None] * (informed @ back), np.float32))

    feature_dim = min(recipe.feature_dim, tokens.shape[1], items)
    feature_side = np.zeros((items, recipe.feature_dim), np.float32)
    feature_map = np.zeros((tokens.shape[1], recipe.feature_dim), np.float32)
    if feature_dim and solve is not None:
        side = _right_vectors(projected, projected_transposed, items, feature_dim, generator)
        feature_side[:, :feature_dim] = side
        feature_map[:, :feature_dim] = scipy.linalg.cho_solve(solve, informed.T @ (spread[:, None] * times(side)))
    features = np.asarray(tokens @ feature_map, np.float32)

    def left(thin: Floats) -> Floats:
        return np.asarray(likes @ (times(thin) - features @ (feature_side.T @ thin)), np.float32)

    def left_transposed(thin: Floats) -> Floats:
        back = np.asarray(likes.T @ thin, np.float32)
        return times_transposed(back) - feature_side @ (features.T @ back)

    item_dim = min(recipe.item_dim, items)
    item_side = np.zeros((items, recipe.item_dim), np.float32)
    learned = np.zeros((items, recipe.item_dim), np.float32)
    item_side[:, :item_dim] = _right_vectors(left, left_transposed, items, item_dim, generator)
    learned[:, :item_dim] = times(item_side[:, :item_dim]) - features @ (feature_side.T @ item_side[:, :item_dim])
    side = np.concatenate((feature_side, item_side), axis=1)
    unknown = (spread == 0) & (np.abs(side).max(axis=1, initial=0) < 1e-5)  # 0 but for rounding
    if solve is not None and unknown.any():  # no item speaks for these: what their descriptions let expect
        expected = scipy.linalg.cho_solve(solve, informed.T @ (spread[:, None] * side))
        side[unknown] = tokens[unknown] @ expected
    return Ranking(np.concatenate((features, learned), axis=1), np.ascontiguousarray(side, np.float32))


def _right_vectors(
    times: Product, times_transposed: Product, items: int, count: int, generator: np.random.Generator
) -> Floats:
    """The `count` strongest right singular vectors (items, count) of a matrix that is known by its products."""
    width = min(count + OVERSAMPLING, items)
    basis = np.linalg.qr(generator.normal(size=(items, width)).astype(np.float32))[0]
    for _ in range(POWER_STEPS):
        basis = np.linalg.qr(times_transposed(times(basis)))[0]
    _, _, turned = np.linalg.svd(times(basis), full_matrices=False)
    return np.ascontiguousarray((basis @ turned.T)[:, :count], np.float32)
