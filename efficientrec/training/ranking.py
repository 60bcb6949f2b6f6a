"""The ranking head in closed form: item vectors f_i and ranking vectors h_i, so that a sum of f_i times h_j says how
well item j fits what a user did.

1. *Item-to-item weights* B by ridge regression of each item on all others (EASE, arXiv 1905.03375). Tokens of
   descriptions stand beside the users as further rows, so that items alike in words support each other, and an item
   that nobody touched yet gets weights too.
2. *What descriptions can say of B*: v_i, the best rank-`feature_dim` approximation of B by a linear map of an item's
   tokens.
3. *What is left*: e_i, the best rank-`item_dim` approximation of B minus that. Both are weighted by what users really
   did: it is X B that is approximated, not B (see papers on low-rank EASE).
4. f_i = concat(v_i, e_i). With few items or few rows this is exact up to rank; with many of both, weights are exact
   among the most frequent items and the rest are placed by the company they keep.

B is never written out when there are fewer rows than items: its products with thin matrices are all that is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

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


def fit(likes: scipy.sparse.csr_matrix, tokens: scipy.sparse.csr_matrix, recipe: Recipe) -> Ranking:
    """likes (users, items): how much each user liked each item, in (0, 1]. tokens (items, tokens): `token_matrix`."""
    count = np.asarray(likes.sum(axis=0), np.float64).ravel()
    ridge = recipe.ridge * float(np.sqrt((count**2).sum() / max(count.sum(), 1e-9)))
    described = scipy.sparse.csr_matrix(tokens.T) * np.float32(np.sqrt(recipe.description_weight))
    rows = scipy.sparse.csr_matrix(scipy.sparse.vstack([likes, described]), dtype=np.float32)
    items = likes.shape[1]
    if items <= recipe.core_items or rows.shape[0] <= recipe.core_items:
        core = np.arange(items)
    else:
        core = np.sort(np.argsort(-count, kind="stable")[: recipe.core_items])
    rows_core, likes_core, tokens_core = rows[:, core], likes[:, core], tokens[core]
    times, times_transposed = _weights(rows_core, ridge)

    generator = np.random.default_rng(recipe.seed)
    spread = np.sqrt(count[core]).astype(np.float32)  # √ of the diagonal of XᵀX
    informed = scipy.sparse.diags_array(spread) @ tokens_core
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

    feature_dim = min(recipe.feature_dim, tokens.shape[1], len(core))
    feature_side = np.zeros((len(core), recipe.feature_dim), np.float32)
    feature_map = np.zeros((tokens.shape[1], recipe.feature_dim), np.float32)
    if feature_dim and solve is not None:
        side = _right_vectors(projected, projected_transposed, len(core), feature_dim, generator)
        feature_side[:, :feature_dim] = side
        feature_map[:, :feature_dim] = scipy.linalg.cho_solve(solve, informed.T @ (spread[:, None] * times(side)))
    features = np.asarray(tokens @ feature_map, np.float32)

    def left(thin: Floats) -> Floats:
        return np.asarray(likes_core @ (times(thin) - features[core] @ (feature_side.T @ thin)), np.float32)

    def left_transposed(thin: Floats) -> Floats:
        back = np.asarray(likes_core.T @ thin, np.float32)
        return times_transposed(back) - feature_side @ (features[core].T @ back)

    item_dim = min(recipe.item_dim, len(core))
    item_side = np.zeros((len(core), recipe.item_dim), np.float32)
    learned = np.zeros((len(core), recipe.item_dim), np.float32)
    item_side[:, :item_dim] = _right_vectors(left, left_transposed, len(core), item_dim, generator)
    learned[:, :item_dim] = times(item_side[:, :item_dim]) - features[core] @ (feature_side.T @ item_side[:, :item_dim])

    vectors = np.concatenate((features[core], learned), axis=1)
    side = np.concatenate((feature_side, item_side), axis=1)
    if len(core) == items:
        return Ranking(vectors, side)
    return _placed(likes, core, features, vectors, side, ridge)


def _weights(rows: scipy.sparse.csr_matrix, ridge: float) -> tuple[Product, Product]:
    """Products of B and of Bᵀ with thin matrices (items, k), where B = I - P / diag(P), P = (RᵀR + λI)⁻¹."""
    if rows.shape[1] <= rows.shape[0]:
        gram = (rows.T @ rows).toarray().astype(np.float32)
        gram[np.diag_indices_from(gram)] += np.float32(ridge)
        inverse = scipy.linalg.inv(gram, overwrite_a=True, check_finite=False)
        diagonal = inverse.diagonal().copy()

        def inverted(thin: Floats) -> Floats:
            return np.asarray(inverse @ thin, np.float32)

    else:  # Woodbury: P = (I - Rᵀ (R Rᵀ + λI)⁻¹ R) / λ
        small = (rows @ rows.T).toarray().astype(np.float32)
        small[np.diag_indices_from(small)] += np.float32(ridge)
        factor = scipy.linalg.cholesky(small, lower=True, overwrite_a=True, check_finite=False)
        diagonal = np.empty(rows.shape[1], np.float32)
        for first in range(0, rows.shape[1], 1024):  # by parts: whole it would be as large as rows times items
            part = rows[:, first : first + 1024].toarray()
            half = scipy.linalg.solve_triangular(factor, part, lower=True, overwrite_b=True, check_finite=False)
            diagonal[first : first + 1024] = (1 - np.square(half).sum(axis=0)) / np.float32(ridge)

        def inverted(thin: Floats) -> Floats:
            inner = scipy.linalg.cho_solve((factor, True), np.asarray(rows @ thin, np.float32), check_finite=False)
            return np.asarray((thin - rows.T @ inner) / np.float32(ridge), np.float32)

    def times(thin: Floats) -> Floats:
        return np.asarray(thin - inverted(np.asarray(thin / diagonal[:, None], np.float32)), np.float32)

    def times_transposed(thin: Floats) -> Floats:
        return np.asarray(thin - inverted(thin) / diagonal[:, None], np.float32)

    return times, times_transposed


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


def _placed(
    likes: scipy.sparse.csr_matrix,
    core: NDArray[np.intp],
    features: Floats,
    vectors: Floats,
    side: Floats,
    ridge: float,
) -> Ranking:
    """Vectors for the items outside the core too, from the users whom they share with the core.

    h_i: ridge regression of who liked the item on the users' tastes, as the core's own h are. e_i: the mean of what
    those users' core items vote for, on the scale that the same mean needs to reproduce the core's e_i.
    """
    dim = vectors.shape[1]
    likes_core = likes[:, core]
    taste = np.asarray(likes_core @ vectors, np.float32)
    gram = taste.T @ taste
    gram[np.diag_indices(dim)] += np.float32(np.trace(gram) / dim * 1e-2)
    ranking_vectors = np.linalg.solve(gram, np.asarray((likes.T @ taste).T, np.float32)).T
    company = np.asarray(likes.T @ np.asarray(likes_core @ side, np.float32), np.float32)
    company /= np.asarray(likes.sum(axis=0), np.float32).ravel()[:, None] + np.float32(ridge)
    scale = float((vectors * company[core]).sum() / max(float((company[core] ** 2).sum()), 1e-9))
    item_vectors = company * np.float32(scale)
    item_vectors[:, : features.shape[1]] = features
    item_vectors[core] = vectors
    ranking_vectors[core] = side
    return Ranking(item_vectors, np.ascontiguousarray(ranking_vectors, np.float32))
