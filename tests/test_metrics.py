"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from efficientrec.evaluation import metrics
from efficientrec.evaluation.pairs import Pairs

HITS = np.array([[True, False, True, False], [False, False, False, False]])
TARGETS = np.array([5, 1])


def test_recall_counts_no_more_targets_than_fit_in_the_list() -> None:
    # Five targets, but only two places: one of two found. Three places: two of three.
    assert metrics.recall(HITS, TARGETS, 2).tolist() == [0.5, 0.0]
    assert metrics.recall(HITS, TARGETS, 3) == pytest.approx([2 / 3, 0.0])


def test_recall_is_a_share_of_all_targets_when_the_list_is_longer() -> None:
    assert metrics.recall(HITS, np.array([2, 1]), 4).tolist() == [1.0, 0.0]


def test_ndcg_discounts_by_rank() -> None:
    gained = 1 / np.log2(2) + 1 / np.log2(4)
    best = 1 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)

    assert metrics.ndcg(HITS, TARGETS, 3) == pytest.approx([gained / best, 0.0])


def test_ndcg_of_a_list_that_starts_with_the_only_target_is_one() -> None:
    assert metrics.ndcg(np.array([[True, False]]), np.array([1]), 2).tolist() == [1.0]


def test_ndcg_of_the_third_place_is_half() -> None:
    assert metrics.ndcg(np.array([[False, False, True]]), np.array([1]), 3) == pytest.approx([0.5])


def test_hit_rate_asks_only_whether() -> None:
    assert metrics.hit_rate(HITS, 1).tolist() == [1.0, 0.0]
    assert metrics.hit_rate(HITS[:, 1:], 1).tolist() == [0.0, 0.0]


def test_an_empty_place_of_a_list_is_no_hit() -> None:
    items = np.array([[1, -1]], np.int32)
    wanted = Pairs.of(np.array([0, 0]), np.array([0, 1]), 1, 2)

    assert wanted.has(items).tolist() == [[True, False]]


def test_the_reciprocal_rank_is_that_of_the_first_target() -> None:
    hits = np.array([[False, True, True], [True, False, False], [False, False, False]])

    assert metrics.reciprocal_rank(hits, 3).tolist() == [0.5, 1.0, 0.0]
    assert metrics.reciprocal_rank(hits, 1).tolist() == [0.0, 1.0, 0.0]


def test_precision_counts_empty_places_as_misses() -> None:
    assert metrics.precision(HITS, 2).tolist() == [0.5, 0.0]
    assert metrics.precision(HITS, 5) == pytest.approx([0.4, 0.0])


def test_the_judged_precision_leaves_out_what_nobody_rated() -> None:
    # The user rated items 0, 1 and 2 later, and liked 0 and 1. Of the list 3, 0, 2 one of two rated ones was liked.
    judged = Pairs.of(np.zeros(3, int), np.array([0, 1, 2]), 1, 4)
    favoured = Pairs.of(np.zeros(2, int), np.array([0, 1]), 1, 4)
    items = np.array([[3, 0, 2]], np.int32)

    assert metrics.judged_precision(items, judged, favoured).mean() == 0.5
    assert metrics.base_rate(judged, favoured) == pytest.approx(2 / 3)
    assert metrics.judged_share(items, judged).mean() == pytest.approx(2 / 3)


def test_novelty_is_what_an_item_tells_in_bits() -> None:
    # Of four users one met item 0, all met item 1, none met item 2, which counts as if one had.
    owners = np.array([1, 4, 0])
    items = np.array([[0, 1, -1], [2, -1, -1]], np.int32)

    assert metrics.novelty(items, owners, 4).mean() == pytest.approx((2 + 0 + 2) / 3)


def test_the_popularity_lift_compares_lists_with_what_the_same_users_met() -> None:
    # Who met an item of 2 users is shown items of 4 and 2: half as popular again.
    met = Pairs.of(np.array([0]), np.array([0]), 1, 3)
    items = np.array([[1, 2]], np.int32)

    assert metrics.popularity_lift(items, met, np.array([2, 4, 2])).mean() == pytest.approx(0.5)


def test_a_summary_names_only_what_the_lists_are_long_enough_for() -> None:
    names = set(metrics.summary(np.zeros((1, 20), np.bool_), np.array([1])))

    assert names == {"recall@20", "ndcg@20", "hit_rate@10"}
