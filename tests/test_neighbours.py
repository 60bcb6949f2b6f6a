"""Weights between items: the closed form, its two ways to be worked out, and what is regressed on few items only."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from efficientrec.training import nearest, neighbours
from efficientrec.training.recipe import Recipe

PLAIN = Recipe(dropout=0.0, length_power=0.0, popularity_power=0.0, ridge=2.0)
"""Nothing but EASE."""


def likes(users: int = 40, items: int = 12, seed: int = 0) -> csr_matrix:
    """Two tastes, and a few likes across."""
    draw = np.random.default_rng(seed)
    near = (np.arange(users)[:, None] % 2) == (np.arange(items) % 2)
    return csr_matrix((draw.random((users, items)) < np.where(near, 0.6, 0.1)).astype(np.float32))


def nothing_said(items: int) -> csr_matrix:
    return csr_matrix(np.zeros((items, 0), np.float32))


def dense(weights: neighbours.Weights) -> NDArray[np.float32]:
    return weights.times(np.eye(weights.items, dtype=np.float32))


def ease(liked: csr_matrix, ridge: float) -> NDArray[np.float64]:
    """The formula of arXiv 1905.03375, written down once more."""
    inverse = np.linalg.inv((liked.T @ liked).toarray().astype(np.float64) + ridge * np.eye(liked.shape[1]))
    weights: NDArray[np.float64] = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


@pytest.mark.parametrize("users", [40, 7, 4])
def test_without_what_was_added_the_weights_are_those_of_ease(users: int) -> None:
    liked = likes(users)
    count = np.asarray(liked.sum(axis=0)).ravel()
    ridge = PLAIN.ridge * np.sqrt((count**2).sum() / count.sum())

    weights = neighbours.fit(liked, nothing_said(12), PLAIN)

    np.testing.assert_allclose(dense(weights), ease(liked, ridge), atol=1e-5)


@pytest.mark.parametrize("users", [40, 7, 4])
def test_no_item_speaks_for_itself(users: int) -> None:
    weights = dense(neighbours.fit(likes(users), nothing_said(12), Recipe()))

    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-6)


@pytest.mark.parametrize("exact_items", [8000, 0])
def test_both_products_are_of_the_same_weights(exact_items: int) -> None:
    weights = neighbours.fit(likes(), nothing_said(12), replace(Recipe(), exact_items=exact_items))

    np.testing.assert_allclose(
        weights.times_transposed(np.eye(weights.items, dtype=np.float32)), dense(weights).T, atol=1e-5
    )


def test_an_item_regressed_on_all_others_has_the_weights_of_the_inverse() -> None:
    exact = neighbours.fit(likes(200), nothing_said(12), Recipe())
    near = neighbours.fit(likes(200), nothing_said(12), replace(Recipe(), exact_items=0, nearest=11))

    np.testing.assert_allclose(dense(near), dense(exact), rtol=1e-3, atol=1e-4)


def test_of_more_items_than_are_exact_each_leans_on_the_nearest_few() -> None:
    weights = dense(neighbours.fit(likes(200), nothing_said(12), replace(Recipe(), exact_items=0, nearest=3)))

    assert (np.count_nonzero(weights, axis=0) <= 3).all()
    assert all(set(np.flatnonzero(weights[:, item] > 0) % 2) == {item % 2} for item in range(12))


def test_histories_too_long_to_count_every_pair_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    liked = csr_matrix(np.ones((50, 20), np.float32))
    monkeypatch.setattr(nearest, "PAIRS_MAX", 50 * 8**2)

    sampled = nearest._sampled(liked, seed=0)

    assert (np.diff(sampled.indptr) == 8).all()
    np.testing.assert_allclose(sampled.power(2).sum(), liked.power(2).sum())


def test_an_item_that_nobody_liked_has_weights_by_its_description() -> None:
    liked = csr_matrix(np.concatenate((likes().toarray(), np.zeros((40, 1), np.float32)), axis=1))
    tokens = csr_matrix(np.array([[item % 2 == 0, item % 2 == 1] for item in range(12)] + [[1, 0]], np.float32))

    weights = dense(neighbours.fit(liked, tokens, Recipe()))

    assert weights[0:12:2, 12].mean() > weights[1:12:2, 12].mean()


def test_shortlists_are_the_greatest_weights_of_each_row() -> None:
    weights = neighbours.fit(likes(), nothing_said(12), Recipe())

    lists = neighbours.shortlists(weights, 3)

    whole = dense(weights)
    for item in range(12):
        best = np.argsort(-whole[item])[:3]
        assert lists.items[item].tolist() == best.tolist()
        np.testing.assert_allclose(lists.scores[item], whole[item, best], rtol=1e-4)
