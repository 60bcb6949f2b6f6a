"""Shortlists of clusters: credits fitted to exact scores, or the shrunk means of what members like."""

import numpy as np
from scipy.sparse import csr_matrix

from efficientrec.training import voting

CHOSEN = np.array([[0, 1], [0, 1], [1, 0], [1, 0]], np.int32)
MEMBERSHIPS = np.array([[0.9, 0.1], [0.8, 0.1], [0.9, 0.2], [0.7, 0.0]], np.float32)


def test_fitted_votes_come_nearest_to_the_exact_scores() -> None:
    taste = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    items = np.array([[2, -1], [1, -1], [-1, 2], [-2, 0]], np.float32)

    lists = voting.fitted(CHOSEN, MEMBERSHIPS, 2, taste, items, prior=1e-6, size=4)

    p = np.zeros((4, 2))
    np.put_along_axis(p, CHOSEN.astype(np.int64), MEMBERSHIPS, axis=1)
    exact = taste @ (items - items.mean(axis=0)).T
    wanted = np.linalg.lstsq(p, exact, rcond=None)[0]
    for cluster in range(2):
        kept = lists.items[cluster] >= 0
        assert set(lists.items[cluster][kept].tolist()) == set(np.flatnonzero(wanted[cluster] > 0).tolist())
        np.testing.assert_allclose(
            lists.scores[cluster][kept], wanted[cluster, lists.items[cluster][kept]], rtol=1e-3, atol=1e-4
        )


def test_what_an_item_has_before_all_users_puts_it_on_no_shortlist() -> None:
    taste, items = np.ones((4, 1), np.float32), np.ones((3, 1), np.float32)

    lists = voting.fitted(CHOSEN, MEMBERSHIPS, 2, taste, items, prior=1.0, size=3)

    assert (lists.items == -1).all()


def test_means_of_few_members_are_drawn_towards_what_everybody_likes() -> None:
    weights = csr_matrix(np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32))

    own = voting.means(CHOSEN, MEMBERSHIPS, 2, weights, prior=0.0, size=2)
    shrunk = voting.means(CHOSEN, MEMBERSHIPS, 2, weights, prior=1000.0, size=2)

    np.testing.assert_allclose(own.scores[0], [1.7 / 1.9, 0.2 / 1.9], rtol=1e-5)
    np.testing.assert_allclose(shrunk.scores[0], 0.5, atol=0.01)
