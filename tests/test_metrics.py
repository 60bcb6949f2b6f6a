"""Metrics against values worked out by hand."""

import numpy as np
import pytest

from efficientrec.evaluation import metrics

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
    wanted = np.array([[True, True]])

    assert metrics.hits_of(items, wanted).tolist() == [[True, False]]


def test_a_summary_names_only_what_the_lists_are_long_enough_for() -> None:
    names = set(metrics.summary(np.zeros((1, 20), np.bool_), np.array([1])))

    assert names == {"recall@20", "ndcg@20", "hit_rate@10"}
