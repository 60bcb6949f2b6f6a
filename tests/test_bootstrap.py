"""Intervals and significance: what is known of them without drawing."""

import numpy as np
import pytest

from efficientrec.evaluation import bootstrap, metrics
from efficientrec.evaluation.metrics import Ratio

USERS = np.arange(400)
VALUES = np.random.default_rng(0).normal(5.0, 2.0, 400)


def test_an_interval_is_as_wide_as_the_normal_one() -> None:
    got = bootstrap.resample({"m": metrics.mean(VALUES)}, USERS, 0).interval("m")
    error = VALUES.std() / np.sqrt(len(VALUES))

    assert got.mean == pytest.approx(VALUES.mean())
    assert got.low == pytest.approx(VALUES.mean() - 1.96 * error, abs=0.3 * error)
    assert got.high == pytest.approx(VALUES.mean() + 1.96 * error, abs=0.3 * error)


def test_the_same_seed_draws_the_same_users() -> None:
    one, other = (bootstrap.resample({"m": metrics.mean(VALUES)}, USERS, 3) for _ in range(2))

    assert one.interval("m") == other.interval("m")
    assert bootstrap.resample({"m": metrics.mean(VALUES)}, USERS, 4).interval("m") != one.interval("m")


def test_a_small_gain_of_every_user_is_sure_where_two_samples_would_not_tell() -> None:
    noise = np.random.default_rng(1).normal(0.0, 0.1, 400)
    base = bootstrap.resample({"m": metrics.mean(VALUES)}, USERS, 0)
    better = bootstrap.resample({"m": metrics.mean(VALUES + 0.05 + noise)}, USERS, 0)
    same = bootstrap.resample({"m": metrics.mean(VALUES + noise - noise.mean())}, USERS, 0)

    assert better.p_value(base, "m") < 0.01
    assert same.p_value(base, "m") > 0.5
    assert better.interval("m").low < base.interval("m").high


def test_the_questions_of_one_user_stand_or_fall_together() -> None:
    # Forty users asked ten times each, all ten alike: as unsure as forty values, not as four hundred.
    values = np.repeat(VALUES[:40], 10)
    alone = bootstrap.resample({"m": metrics.mean(VALUES[:40])}, np.arange(40), 0).interval("m")
    asked_often = bootstrap.resample({"m": metrics.mean(values)}, np.repeat(np.arange(40), 10), 0).interval("m")

    assert asked_often.high - asked_often.low == pytest.approx(alone.high - alone.low)


def test_a_ratio_is_resampled_as_one() -> None:
    ratio = Ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 3.0]))

    got = bootstrap.resample({"m": ratio}, np.arange(3), 0)

    assert got.mean["m"] == pytest.approx(0.8)
    assert np.isfinite(got.draws["m"]).all()


def test_coverage_counts_distinct_items_among_those_known() -> None:
    items = np.array([[0, 1, -1], [1, 2, -1]], np.int32)

    got = bootstrap.coverage(items, 6, np.arange(2), 0)

    assert got.mean == 0.5
    assert got.low <= got.mean <= got.high
