"""Who is in which arm: as many as the share says, by nothing but the id and the salt."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from streams.arms import CONTROL, TREATMENT, Arm, Arms, is_treated
from streams.placement import partitions_of
from streams.quality import ONE_IN
from tests.toy import toy_model

USERS = 100_000
KEYS = [f"user-{number}".encode() for number in range(USERS)]
RARE = 1e-6
"""How improbable a finding must be by chance to count as one; all here is fixed, so it never comes by chance again."""


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("salt", ["one", "another"])
def test_the_share_of_users_is_that_of_the_experiment(share: float, salt: str) -> None:
    treated = int(is_treated(KEYS, share, salt).sum())

    assert abs(treated - share * USERS) < 5 * np.sqrt(share * (1 - share) * USERS)


def test_arms_are_alike_in_partition_and_in_who_is_sampled_for_the_hit_rate() -> None:
    treated = is_treated(KEYS, 0.5, "salt")
    partition = np.asarray(partitions_of(KEYS, 16))
    remainder = np.array([crc32(key) % ONE_IN for key in KEYS])

    for other in (partition, remainder):
        counts = [np.bincount(other[treated == arm]) for arm in (False, True)]
        assert chi2_contingency(counts).pvalue > RARE


def test_experiments_divide_users_independently_of_each_other() -> None:
    first, second = (is_treated(KEYS, 0.5, salt) for salt in ("first", "second"))

    both = np.array([[np.sum((first == one) & (second == other)) for other in (0, 1)] for one in (0, 1)])

    assert chi2_contingency(both).pvalue > RARE
    assert (first != second).any()


def test_a_larger_share_takes_more_users_and_gives_none_back() -> None:
    few, many = is_treated(KEYS, 0.1, "salt"), is_treated(KEYS, 0.3, "salt")

    assert not (few & ~many).any()
    assert many.sum() > 2 * few.sum()


def test_a_users_arm_is_the_same_for_ever() -> None:
    """As docs/events.md says it, so that others can work it out: a change here would move users in an experiment."""
    names = ["", "anna", "b\0ert", "日本"]

    assert is_treated([name.encode() for name in names], 0.25, "salt ü").tolist() == [True, False, False, True]


def test_without_an_experiment_all_are_of_the_control() -> None:
    ((arm, places),) = Arms(Arm(CONTROL)).divided(KEYS[:3])

    assert (arm.name, places.tolist()) == (CONTROL, [0, 1, 2])


def test_each_user_is_in_one_arm() -> None:
    arms = Arms(Arm(CONTROL, toy_model()), Arm(TREATMENT, toy_model("toy-2")), 0.3, "salt")

    (control, here), (treatment, there) = arms.divided(KEYS[:1000])

    assert (control.name, treatment.name) == (CONTROL, TREATMENT)
    assert sorted([*here.tolist(), *there.tolist()]) == list(range(1000))
    assert is_treated(KEYS[:1000], 0.3, "salt")[there].all()
    assert [arm.name for arm, _ in arms.divided([KEYS[there[0]]])] == [TREATMENT]
    assert arms.divided([]) == []
